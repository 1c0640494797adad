"""Adversarially masked translation: three terms, any architecture, no masks when translating."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from agents.adversarial_module import adversarial_loss
from agents.adversarial_translation import AdversarialTranslation, AdversarialTranslationSettings
from envs.adaptation.generation_objective import Translation
from envs.adaptation.generation_scorer import GenerationScorer
from envs.adaptation.jobs import AdaptationSettings, ScoreJob
from envs.models.architectures import ARCHITECTURES
from envs.models.checks import has_head
from envs.models.new_model import ModelSize, new_model
from envs.models.new_tokenizer import FAMILIES, train_tokenizer
from envs.models.seq2seq import Seq2SeqModel
from envs.tasks.generation import Generation
from envs.text.examples import GenerationExample
from tests.conftest import SENTENCES

pytest.importorskip("sacrebleu")

SEQ2SEQ = [name for name in ARCHITECTURES if has_head(name, "seq2seq")]
COPY = [GenerationExample(str(n), text, (text,)) for n, text in enumerate(SENTENCES)]
SETTINGS = AdaptationSettings(
    pretrain_epochs=0, finetune_epochs=2, finetune_batch=4, finetune_lr=1e-3
)


@pytest.fixture(scope="module")
def tokenizers():
    return {
        family: train_tokenizer(SENTENCES, family, vocab_size=330, max_length=64)
        for family in FAMILIES
    }


def make(name, tokenizers):
    tokenizer = tokenizers[ARCHITECTURES[name].tokenizer]
    model = new_model(name, "seq2seq", tokenizer, ModelSize(32, 1, 2, 64))
    lm = Seq2SeqModel(name, model, tokenizer)
    return lm, Generation(tokenizer, max_source_length=64, max_target_length=30)


def objective_of(model, settings=None, **options):
    special = model.tokenizer.all_special_ids
    return AdversarialTranslation(
        Translation(model, 0.1), model.model, special, settings, **options
    )


def random_states(pairs, width=6):
    """Stands for a pre-trained encoder: one state a letter of the source."""
    lengths = [len(pair.example.source) for pair in pairs]
    states = torch.zeros(len(pairs), max(lengths), width)
    for row, pair in zip(states, pairs, strict=True):
        for place, letter in enumerate(pair.example.source):
            row[place, ord(letter) % width] = 1.0
    return states, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize("fused", [False, True])
def test_every_architecture_trains_and_translates(name, fused, tokenizers):
    model, task = make(name, tokenizers)
    features = task.features(COPY, training=True)
    options = {"states": random_states, "states_width": 6} if fused else {}
    scorer = GenerationScorer(model, task, objective=partial(objective_of, **options))
    job = ScoreJob([], None, features[:4], features[4:], SETTINGS, seed=1)
    first = scorer(job)
    assert np.isfinite(first.metrics["nll"])
    assert scorer(job) == first


def test_the_three_terms_and_the_share_masked(tokenizers):
    model, task = make("bart", tokenizers)
    torch.manual_seed(0)
    objective = objective_of(model, AdversarialTranslationSettings(ratio=0.25))
    features = task.features(COPY, training=True)
    total = objective.loss(features)
    terms = objective.last_terms
    assert set(terms) == {"translation", "source", "adversary", "entropy"}
    assert total.item() == pytest.approx(
        terms["translation"] + terms["source"] + terms["adversary"]
    )
    ids, mask = objective.last_mask
    for row, feature in enumerate(features):
        content = [t for t in feature.source_ids if t not in model.tokenizer.all_special_ids]
        assert mask[row].sum() == max(1, round(0.25 * len(content)))
    assert not set(ids[mask].tolist()) & set(model.tokenizer.all_special_ids)
    total.backward()
    for part in (objective.module.score, objective.source_head):
        assert part.weight.grad.abs().sum() > 0


def test_the_terms_are_what_they_are_said_to_be(tokenizers):
    """The source loss is that of all tokens but special ones, masked or not, by its weight; the
    adversary learns from the standardised losses of those that are masked."""
    model, task = make("bart", tokenizers)
    torch.manual_seed(0)
    settings = AdversarialTranslationSettings(source_weight=0.5, adversary_weight=2.0)
    objective = objective_of(model, settings).eval()
    model.model.eval()
    features = task.features(COPY, training=True)
    for _ in range(2):  # the running mean is not that of the batch
        objective.loss(features)
        ids, mask = objective.last_mask
        sources = model.sources([feature.source_ids for feature in features])
        _, states = objective._encode(sources, features, mask)
        losses = -objective.source_head(states).log_softmax(-1).gather(2, ids[..., None])[..., 0]
        words = ~torch.isin(ids, torch.tensor(model.tokenizer.all_special_ids))
        expected = 0.5 * losses[words].mean().item()
        assert objective.last_terms["source"] == pytest.approx(expected, rel=1e-5)
        scores = objective.module(ids, sources["attention_mask"].bool())
        advantage = objective.losses.standardised(losses.detach())
        adversary, _ = adversarial_loss(scores, words, mask, advantage, settings.adversary)
        expected = 2.0 * adversary.item()
        assert objective.last_terms["adversary"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_encoder_and_decoder_compute_at_the_models_precision(fused, tokenizers):
    model, task = make("bart", tokenizers)
    low = Seq2SeqModel("bart", model.model, model.tokenizer, precision="bf16")
    features = task.features(COPY, training=True)
    seen = []
    for half in (low.model.get_encoder(), low.model.get_decoder()):
        half.layers[0].fc1.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    options = {"states": random_states, "states_width": 6} if fused else {}
    loss = objective_of(low, **options).loss(features)
    assert seen == [torch.bfloat16] * 2
    assert loss.dtype == torch.float32
    loss.backward()


def test_nothing_is_learned_by_the_encoder_that_is_fused_in(tokenizers):
    model, task = make("bart", tokenizers)
    states, real = random_states(task.features(COPY, training=True))
    states.requires_grad_()
    options = {"states": lambda pairs: (states, real), "states_width": 6}
    objective = objective_of(model, **options)
    objective.loss(task.features(COPY, training=True)).backward()
    assert states.grad is None
    assert objective.fusion.to_width[0].weight.grad.abs().sum() > 0


def test_masked_embeddings_are_zero_or_learned(tokenizers):
    """Which token was masked makes no difference to the encoder."""
    for kind in ("zero", "learned"):
        model, _ = make("t5", tokenizers)
        model.model.eval()
        objective = objective_of(model, AdversarialTranslationSettings(embedding=kind))
        ids = torch.tensor([[3, 20, 21, 22, 1], [3, 20, 30, 22, 1]])
        mask = torch.tensor([[False, False, True, False, False]] * 2)
        sources = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        _, states = objective._encode(sources, [], mask)
        torch.testing.assert_close(states[0], states[1])
        _, free = objective._encode(sources, [], None)
        assert (free[0] - free[1]).abs().max() > 1e-3
        expected = model.model.get_encoder()(**sources).last_hidden_state
        torch.testing.assert_close(free, expected)  # and the hook is gone


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_masked_token_keeps_its_position(name, tokenizers):
    """FSMT makes positions of the ids as well: they were erased with the tokens."""
    model, _ = make(name, tokenizers)
    model.model.eval()
    ids = model.batch([np.arange(20, 32)])
    sources = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, [2, 5]] = True
    _, states = objective_of(model)._encode(sources, [], mask)
    assert (states[0, 2] - states[0, 5]).abs().max() > 1e-3


def test_an_encoder_with_a_matrix_of_its_own_is_masked(tokenizers):
    """Not that of the model, which nothing reads then."""
    tokenizer = tokenizers["bpe"]
    config = AutoConfig.for_model(
        "bart",
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        tie_word_embeddings=False,
    )
    model = Seq2SeqModel("bart", AutoModelForSeq2SeqLM.from_config(config), tokenizer)
    model.model.eval()
    ids = torch.tensor([[0, 20, 21, 22, 2], [0, 20, 30, 22, 2]])
    mask = torch.tensor([[False, False, True, False, False]] * 2)
    sources = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    _, states = objective_of(model)._encode(sources, [], mask)
    torch.testing.assert_close(states[0], states[1])


def test_it_learns_to_mask_what_cannot_be_recovered(tokenizers):
    """Sources of one frequent token and many rare ones: the rare ones get masked."""
    model, task = make("bart", tokenizers)
    torch.manual_seed(0)
    objective = objective_of(model)
    rng = np.random.default_rng(0)
    letters = list("bcdfghjklmnpqrstvwxyz")
    optimizer = torch.optim.Adam([*model.model.parameters(), *objective.parameters()], lr=3e-3)
    shares = []
    for _ in range(60):
        texts = [
            " ".join(rng.choice(letters) if n % 2 else "a" for n in range(10)) for _ in range(8)
        ]
        pairs = [GenerationExample("", text, ("a",)) for text in texts]
        loss = objective.loss(task.features(pairs, training=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ids, mask = objective.last_mask
        frequent = ids == task.tokenizer(" a", add_special_tokens=False)["input_ids"][0]
        share = (frequent & mask).sum() / mask.sum()
        shares.append(float(share / (frequent.sum() / (ids > 4).sum())))
    # At first as chance has it or more: before anything is learned, any token may be the hardest.
    assert np.mean(shares[:5]) > 0.7
    assert np.mean(shares[-10:]) < 0.2


def test_the_ratio_is_a_share():
    with pytest.raises(ValueError, match="ratio is 0"):
        AdversarialTranslationSettings(ratio=0)
