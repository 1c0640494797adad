"""The data collator: what it may mask, reproducibility, words, and training with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from torch.utils.data import DataLoader

from agents.strategies import RandomTokens
from envs.text.corpus import build_corpus
from envs.text.words import WordIds
from nmg.collator import MaskingCollator
from tests.stub_world import Everything


@pytest.fixture(params=["wordpiece", "bpe"])
def tokenizer(request, tiny_tokenizer, bpe_tokenizer):
    return {"wordpiece": tiny_tokenizer, "bpe": bpe_tokenizer}[request.param]


def texts(n=8):
    return [{"text": SENTENCES[i % len(SENTENCES)]} for i in range(n)]


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def test_a_batch_has_labels_within_the_budget_and_never_on_special_tokens(tokenizer):
    collator = MaskingCollator(tokenizer, budget=0.2, corruption="mask")
    batch = collator(texts())
    plain = tokenizer([feature["text"] for feature in texts()], padding=True)
    ids = torch.tensor(plain["input_ids"])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert torch.equal(batch["attention_mask"], torch.tensor(plain["attention_mask"]))
    masked = batch["labels"] != -100
    assert torch.equal(batch["labels"][masked], ids[masked])
    assert torch.equal(batch["input_ids"][~masked], ids[~masked])
    assert (batch["input_ids"][masked] == tokenizer.mask_token_id).all()
    assert not torch.isin(ids[masked], torch.tensor(tokenizer.all_special_ids)).any()
    budget = (0.2 * batch["attention_mask"].sum(1)).long()
    assert torch.equal(masked.sum(1), budget)


def test_bert_corruption_mixes(tiny_tokenizer):
    batch = MaskingCollator(tiny_tokenizer, budget=1.0)(texts(60))
    masked = batch["labels"] != -100
    hidden = batch["input_ids"][masked] == tiny_tokenizer.mask_token_id
    kept = batch["input_ids"][masked] == batch["labels"][masked]
    assert hidden.float().mean() == pytest.approx(0.8, abs=0.05)
    assert kept.float().mean() == pytest.approx(0.1, abs=0.04)


def test_same_seed_same_batches_and_masks_change(tokenizer):
    one, two = (MaskingCollator(tokenizer, "span", budget=0.3, seed=4) for _ in range(2))
    first, second = one(texts()), one(texts())
    assert same(first, two(texts()))
    assert same(second, two(texts()))
    assert not same(first, second)
    assert not same(first, MaskingCollator(tokenizer, "span", budget=0.3, seed=5)(texts()))


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(workers, tiny_tokenizer):
    def epochs():
        torch.manual_seed(3)
        collator = MaskingCollator(tiny_tokenizer, "whole_word", budget=0.3)
        loader = DataLoader(texts(8), batch_size=2, collate_fn=collator, num_workers=workers)
        return [list(loader) for _ in range(2)]

    first, second = epochs()
    assert not all(map(same, first, second)), "masks must be new in the second epoch"
    again = epochs()
    assert all(map(same, first + second, again[0] + again[1]))
    # the same text in different batches, hence workers, is masked in different ways
    repeated = DataLoader(
        texts(1) * 8,
        batch_size=2,
        collate_fn=MaskingCollator(tiny_tokenizer, budget=0.3),
        num_workers=workers,
    )
    labels = {tuple(batch["labels"].flatten().tolist()) for batch in repeated}
    assert len(labels) == 4


def test_ids_and_words_are_taken_as_given(tiny_tokenizer):
    encoded = tiny_tokenizer(SENTENCES[2], padding="max_length", max_length=60)
    one_word = [None if word is None else 0 for word in encoded.word_ids()]
    feature = {**encoded, "word_ids": one_word}
    batch = MaskingCollator(tiny_tokenizer, "whole_word", budget=1.0)([feature])
    n_real = sum(encoded["attention_mask"])
    assert batch["input_ids"].shape == (1, n_real), "padding is made anew"
    masked = batch["labels"][0] != -100
    assert masked.tolist() == [False] + [True] * (n_real - 2) + [False]


def test_words_of_bare_ids(tokenizer):
    for sentence in (*SENTENCES, "Holt's well-known 3.5% (1,200) bridges, e.g. hydroxyphenol..."):
        encoded = tokenizer(sentence)
        ids = np.array(encoded["input_ids"])
        expected = [-1 if word is None else word for word in encoded.word_ids()]
        guessed = WordIds(tokenizer).guess(ids, np.isin(ids, tokenizer.all_special_ids))
        assert guessed.tolist() == expected


def test_words_of_a_window_cut_inside_a_word(tokenizer):
    encoded = tokenizer("engineers compared hydroxyphenol bridges", add_special_tokens=False)
    words = encoded.word_ids()
    start = words.index(2) + 2
    ids = np.array(encoded["input_ids"][start:])
    guessed = WordIds(tokenizer).guess(ids, np.zeros(len(ids), bool))
    expected = np.array(words[start:]) - words[start]
    assert guessed.tolist() == expected.tolist()


def test_pairs_do_not_share_words(tiny_tokenizer):
    ids = np.array(tiny_tokenizer("the river", "the sea")["input_ids"])
    guessed = WordIds(tiny_tokenizer).guess(ids, np.isin(ids, tiny_tokenizer.all_special_ids))
    assert guessed.tolist() == [-1, 0, 1, -1, 2, 3, -1]


def test_a_policy_that_asks_too_much_is_cut_back(tiny_tokenizer):
    policy = Everything()
    policy.seed = 7  # an attribute, as Stable-Baselines3's agents have one, and no method
    batch = MaskingCollator(tiny_tokenizer, policy, budget=0.25)(texts())
    masked = batch["labels"] != -100
    assert torch.equal(masked.sum(1), (0.25 * batch["attention_mask"].sum(1)).long())
    special = torch.isin(batch["labels"], torch.tensor(tiny_tokenizer.all_special_ids))
    assert not special.any()


def test_a_learned_policy_sees_one_number_for_one_text(tiny_tokenizer):
    seen = []

    class Spy(RandomTokens):
        def predict(self, observation, *args, **options):
            seen.append(observation["context_id"].ravel().tolist())
            return super().predict(observation, *args, **options)

    collator = MaskingCollator(tiny_tokenizer, Spy())
    collator(texts(3))
    collator(texts(2)[::-1])
    first, second, third = seen[0]
    assert seen[1] == [second, first]
    assert len({first, second, third}) == 3
    # As another worker, or a run begun anew, would number it.
    MaskingCollator(tiny_tokenizer, Spy())(texts(3)[::-1])
    assert seen[2] == [third, second, first]


def test_an_unknown_word_is_masked_as_any_word_is(tiny_tokenizer):
    text = "The river \u2603 rises."
    (context,) = build_corpus([text], tiny_tokenizer, 64)
    unknown = context.input_ids == tiny_tokenizer.unk_token_id
    assert unknown.any()
    collator = MaskingCollator(tiny_tokenizer, "random", budget=1.0)
    given = {"input_ids": context.input_ids, "word_ids": context.word_ids}
    for feature in ({"text": text}, given):
        masked = collator([feature])["labels"][0].numpy() != -100
        assert (masked == context.maskable).all()
        assert masked[unknown].all()


def test_no_batch_is_without_a_label(tiny_tokenizer):
    collator = MaskingCollator(tiny_tokenizer, "whole_word", budget=0.05)
    batch = collator([{"text": "hydroxyphenylalanine"}])
    assert (batch["labels"] != -100).sum() == 1


def test_widths_and_lengths(tiny_tokenizer):
    collator = MaskingCollator(tiny_tokenizer, max_length=10, pad_to_multiple_of=8)
    assert collator(texts())["input_ids"].shape == (8, 16)
    ids = [{"input_ids": tiny_tokenizer(SENTENCES[0])["input_ids"]}]
    assert collator(ids)["attention_mask"].sum() == 10


def test_bad_input_is_named(tiny_tokenizer):
    with pytest.raises(ValueError, match="remove_unused_columns"):
        MaskingCollator(tiny_tokenizer)([{"label": 1}])
    with pytest.raises(ValueError, match="budget is 5"):
        MaskingCollator(tiny_tokenizer, budget=5)
    with pytest.raises(ValueError, match="rule 'x'"):
        MaskingCollator(tiny_tokenizer, corruption="x")
    with pytest.raises(ValueError, match="other than none"):
        MaskingCollator(tiny_tokenizer, "none")
    with pytest.raises(ValueError, match="'idf' needs contexts"):
        MaskingCollator(tiny_tokenizer, "idf")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0; it must be .* at least 1"),
        ({"pad_to_multiple_of": 2.5}, r"pad_to_multiple_of is 2\.5"),
        ({"max_length": -5}, "max_length is -5; it must be .* at least 3"),
        ({"max_length": 0}, "max_length is 0"),
        ({"seed": -1}, "seed is -1; it must be .* at least 0"),
        ({"policy": None}, "policy is None; give the name of a strategy"),
        ({"policy": RandomTokens}, "policy is <class"),
    ],
)
def test_bad_settings_are_named_before_the_first_batch(tiny_tokenizer, setting, message):
    with pytest.raises(ValueError, match=message):
        MaskingCollator(tiny_tokenizer, **setting)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("The river.", "A feature is 'The river.'; expected a mapping"),
        ({"text": None}, "text of a feature is None, not a string"),
        ({"text": 3}, "text of a feature is 3, not a string"),
        ({"input_ids": [[2, 7, 3]]}, r"input_ids of a feature is \[\[2, 7, 3\]\]; expected one"),
        ({"input_ids": [[2, 7], [3]]}, "input_ids of a feature is .*; expected one"),
        ({"input_ids": [2.0, 7.5, 3.0]}, "input_ids of a feature is .*; expected one whole"),
        ({"input_ids": 7}, "input_ids of a feature is 7; expected one"),
        ({"input_ids": [2, 99999, 3]}, "holds 99999; the tokenizer's ids go from 0 to"),
        ({"input_ids": [2, -100, 3]}, "holds -100; the tokenizer's ids go from 0 to"),
        ({"input_ids": [2, 2**40, 3]}, f"holds {2**40}; the"),
        ({"word_ids": [None, 0]}, "word_ids of a feature has 2 entries for 3 tokens"),
        ({"word_ids": [None, 0, 0, None]}, "word_ids of a feature has 4 entries for 3 tokens"),
        ({"word_ids": [None, 0.5, None]}, "word_ids of a feature is .*; expected one whole"),
        ({"word_ids": ["a", "b", "c"]}, "word_ids of a feature is .*; expected one whole"),
        ({"attention_mask": [1, 1]}, "attention_mask of a feature has 2 entries for 3 tokens"),
        ({"special_tokens_mask": [1]}, "special_tokens_mask of a feature has 1 entries for 3"),
    ],
)
def test_bad_features_are_one_sentence(tiny_tokenizer, feature, message):
    if isinstance(feature, dict) and "text" not in feature:
        feature = {"input_ids": [2, 7, 3]} | feature
    with pytest.raises(ValueError, match=message):
        MaskingCollator(tiny_tokenizer)([*texts(2), feature])


def test_a_batch_of_which_nothing_can_be_masked_is_refused(tiny_tokenizer):
    collator = MaskingCollator(tiny_tokenizer)
    padding = {"input_ids": [2, 7, 3], "attention_mask": [0, 0, 0]}
    with pytest.raises(ValueError, match="The batch is empty"):
        collator([])
    for batch in ([{"text": ""}], [{"text": " "}, padding]):
        with pytest.raises(ValueError, match=f"No token of the batch's {len(batch)} examples"):
            collator(batch)
    assert (collator([*texts(1), {"text": ""}])["labels"] != -100).sum(1).tolist() == [1, 0]


def test_columns_come_as_lists_arrays_or_tensors(tiny_tokenizer):
    encoded = tiny_tokenizer(SENTENCES[0], return_special_tokens_mask=True)
    columns = {name: list(values) for name, values in encoded.items()}
    kinds = (list, np.array, torch.tensor, lambda values: torch.tensor(values) > 0)
    batches = []
    for kind in kinds:
        masks = {name: kind(values) for name, values in columns.items() if "mask" in name}
        ids = (torch.tensor if kind is kinds[3] else kind)(columns["input_ids"])
        batches.append(MaskingCollator(tiny_tokenizer)([{"input_ids": ids, **masks}]))
    assert all(same(batches[0], batch) for batch in batches[1:])


def test_a_model_learns_from_it(tiny_tokenizer, tiny_masked_lm):
    collator = MaskingCollator(tiny_tokenizer, "punctuation", budget=0.2)
    optimizer = torch.optim.AdamW(tiny_masked_lm.parameters(), lr=5e-3)
    tiny_masked_lm.train()
    losses = []
    for _ in range(25):
        loss = tiny_masked_lm(**collator(texts(7))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_trainer(tmp_path, tiny_tokenizer, tiny_masked_lm):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        tiny_masked_lm,
        arguments,
        train_dataset=texts(8),
        data_collator=MaskingCollator(tiny_tokenizer, "span", budget=0.2),
    )
    assert np.isfinite(trainer.train().training_loss)
