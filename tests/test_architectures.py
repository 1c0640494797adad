"""Every architecture with a masked-LM head: states, gradients, saving, and their traps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.models.architectures import ARCHITECTURES
from envs.models.checks import has_head
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model
from envs.models.new_model import ModelSize, new_model
from envs.models.new_tokenizer import FAMILIES, train_tokenizer
from envs.models.quirks import fixed_length, padded_length
from tests.conftest import SENTENCES

MASKED = [name for name in ARCHITECTURES if has_head(name, "masked")]
WITH_HEAD = [*MASKED, *(name for name in ARCHITECTURES if has_head(name, "seq2seq"))]
MIXES_PADDING = {"convbert", "fnet", "funnel", "nystromformer", "yoso"}
"""Convolutions, Fourier transform, pooling and hashing see the padding of a batch."""


@pytest.fixture(scope="module")
def tokenizers():
    return {
        family: train_tokenizer(SENTENCES, family, vocab_size=330, max_length=128)
        for family in FAMILIES
    }


def make(name, tokenizers, **settings) -> LanguageModel:
    tokenizer = tokenizers[ARCHITECTURES[name].tokenizer]
    size = ModelSize(width=32, layers=2, heads=2, length=128)
    return LanguageModel(name, new_model(name, "masked", tokenizer, size, **settings), tokenizer)


def sequences_of(lm):
    return [np.array(lm.tokenizer(text)["input_ids"]) for text in SENTENCES[:2]]


def step(lm):
    """Gradients of a masked-LM loss, in training."""
    lm.model.train()
    lm.flat.zero_grad()
    logits_MV = lm.masked_logits(sequences_of(lm), np.array([2, 5, 20]))
    torch.nn.functional.cross_entropy(logits_MV, torch.tensor([9, 10, 11])).backward()
    return lm.flat.parameter.grad


@pytest.mark.parametrize("name", MASKED)
def test_states_are_token_by_token_and_train(name, tokenizers):
    lm = make(name, tokenizers)
    sequences = sequences_of(lm)
    lm.model.eval()
    with torch.inference_mode():
        together = lm.hidden_states(sequences)
        alone = torch.cat([lm.hidden_states([sequence]) for sequence in sequences])
    assert together.shape == (sum(map(len, sequences)), lm.width)
    if name not in MIXES_PADDING:
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert lm.embeddings(sequences[0]).shape == (len(sequences[0]), lm.embedding_width)
    assert step(lm).abs().sum() > 0


@pytest.mark.parametrize("name", sorted(set(WITH_HEAD) - {"funnel", "perceiver", "t5"}))
def test_first_weights_suit_the_width(name, tokenizers):
    """At the usual 0.02 a small model attends evenly, and learns how frequent tokens are at best.

    Funnel and T5 scale their own, by layer; Perceiver's suit its latents.
    """
    head = "masked" if name in MASKED else "seq2seq"
    tokenizer = tokenizers[ARCHITECTURES[name].tokenizer]
    size = ModelSize(width=64, layers=1, heads=2, length=128)
    deviations = [
        weight.std().item()
        for weight in new_model(name, head, tokenizer, size).parameters()
        if weight.dim() == 2 and weight.numel() > 1000 and weight.std() > 0
    ]
    assert np.median(deviations) == pytest.approx(64**-0.5, rel=0.3)


@pytest.mark.parametrize("name", ["perceiver", "reformer"])
def test_tokens_matter_to_their_own_state_most(name, tokenizers):
    """States that stand for others' tokens would be moved by others."""
    lm = make(name, tokenizers)
    lm.model.eval()
    ids = sequences_of(lm)[0]
    changed = ids.copy()
    changed[4] = (changed[4] + 7) % lm.vocab_size
    with torch.inference_mode():
        torch.manual_seed(0)
        before = lm.hidden_states([ids])
        torch.manual_seed(0)
        moved = (lm.hidden_states([changed]) - before).norm(dim=1)
    assert moved.max() > 0
    if name == "reformer":
        assert moved.argmax() == 4


def test_inputs_of_one_length_only(tokenizers):
    """Perceiver, and Reformer with axial positions."""
    fixed = {
        "perceiver": {},
        "reformer": {
            "axial_pos_embds": True,
            "axial_pos_shape": [4, 16],
            "axial_pos_embds_dim": [16, 16],
            "local_attn_chunk_length": 16,
            "lsh_attn_chunk_length": 16,
        },
    }
    for name, settings in fixed.items():
        lm = make(name, tokenizers, **settings)
        length = fixed_length(lm.model.config)
        assert length == {"perceiver": 136}.get(name, 64)
        assert lm.max_length == min(length, 128)
        assert step(lm).abs().sum() > 0
        assert lm.hidden_states(sequences_of(lm)).shape[0] == sum(map(len, sequences_of(lm)))


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "luke"])
def test_the_longest_input_has_a_position_for_every_token(name, tokenizers, monkeypatch):
    """Where nothing is packed, packing does not tell where positions begin."""
    for packing in (True, False):
        if not packing:
            monkeypatch.setattr("envs.models.language_model.probe_packing", lambda lm: False)
        lm = make(name, tokenizers, max_position_embeddings=40)
        assert lm.max_length == (40 if name == "bert" else 38)
        with torch.inference_mode():
            assert len(lm.hidden_states([np.full(lm.max_length, 9)])) == lm.max_length


def test_reformer_is_padded_to_its_chunks(tokenizers):
    config = make("reformer", tokenizers).model.config
    assert [padded_length(config, n) for n in (1, 64, 65)] == [64, 64, 128]
    assert fixed_length(config) is None
    assert padded_length(make("bert", tokenizers).model.config, 17) == 17


@pytest.mark.parametrize(
    ("name", "published", "loaded"),
    [
        ("big_bird", {"attention_type": "block_sparse"}, {"attention_type": "original_full"}),
        (
            "nystromformer",
            {"num_landmarks": 8, "segment_means_seq_len": 64},
            {"num_landmarks": 64, "segment_means_seq_len": 64},
        ),
    ],
)
def test_published_settings_that_cannot_work_are_changed(
    name, published, loaded, tokenizers, tmp_path
):
    """Block-sparse attention cannot do short inputs, landmarks no attention mask."""
    lm = make(name, tokenizers)
    lm.save(tmp_path)
    config = lm.model.config.to_dict() | published
    type(lm.model.config)(**config).save_pretrained(tmp_path)
    again = load_language_model(str(tmp_path))
    assert {key: getattr(again.model.config, key) for key in loaded} == loaded
    assert step(again).abs().sum() > 0


@pytest.mark.parametrize("name", ["perceiver", "funnel", "modernbert"])
def test_saved_models_load(name, tokenizers, tmp_path):
    lm = make(name, tokenizers)
    lm.save(tmp_path)
    again = load_language_model(str(tmp_path))
    assert again.fingerprint == lm.fingerprint
    assert again.width == lm.width


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="multiple of the heads"):
        ModelSize(width=30, heads=4)
    with pytest.raises(ValueError, match="layers is 0"):
        ModelSize(layers=0)


@pytest.mark.parametrize("family", ["wordpiece", "bpe", "moses"])
def test_the_same_texts_give_the_same_tokenizer(family):
    texts = [" ".join(random_word(row, column) for column in range(12)) for row in range(60)]
    one, other = (train_tokenizer(texts, family, vocab_size=400) for _ in range(2))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert one.all_special_tokens == list(dict.fromkeys(one.special_tokens_map.values()))
    assert set(one.get_added_vocab()) == set(one.all_special_tokens)


def random_word(row: int, column: int) -> str:
    generator = np.random.default_rng([row, column])
    return "".join(generator.choice(list("abcdefghijklm"), size=generator.integers(1, 6)))
