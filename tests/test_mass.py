"""MASS: who sees what, and both ends of the range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.adaptation.mass import (
    fragment_length,
    masked_sequence,
    random_fragment,
    random_scattered,
)
from envs.models.new_model import ModelSize, new_model
from envs.models.seq2seq import Seq2SeqModel
from envs.text.corruption import corrupt

BOS, PAD, EOS, UNK, MASK = range(5)
SENTENCE = np.array([BOS, 11, 12, 13, 14, 15, 16, 17, 18, EOS])
SHIFTED = np.array([EOS, BOS, 11, 12, 13, 14, 15, 16, 17, 18])
MASKABLE = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 0], dtype=bool)


def mass(mask, rule="mask", seed=0):
    encoder_ids, labels = corrupt(
        SENTENCE,
        mask,
        mask_token_id=MASK,
        vocab_size=100,
        special_ids=range(5),
        rule=rule,
        rng=np.random.default_rng(seed),
    )
    special = np.isin(SHIFTED, [BOS, PAD, EOS, UNK, MASK])
    return masked_sequence(encoder_ids, labels, SHIFTED, mask_token_id=MASK, special=special)


def fragment(start, end):
    mask = np.zeros(10, dtype=bool)
    mask[start:end] = True
    return mask


def test_the_papers_figure():
    """Tokens 3 to 6 of 8 are masked; the decoder sees the first three of them, one to the right."""
    made = mass(fragment(3, 7))
    assert made.encoder_ids.tolist() == [BOS, 11, 12, MASK, MASK, MASK, MASK, 17, 18, EOS]
    assert made.decoder_ids.tolist() == [EOS, BOS, MASK, MASK, 13, 14, 15]
    assert made.labels.tolist() == [-100, -100, -100, 13, 14, 15, 16]


def test_one_token_is_masked_language_modelling():
    for place in range(1, 9):
        made = mass(fragment(place, place + 1))
        assert (made.encoder_ids != SENTENCE).nonzero()[0].tolist() == [place]
        # The decoder is told nothing of the sentence: special tokens and masks only.
        assert set(made.decoder_ids.tolist()) <= {EOS, BOS, MASK}
        assert (made.labels != -100).nonzero()[0].tolist() == [place]
        assert made.labels[place] == SENTENCE[place]


def test_the_whole_sentence_is_causal_language_modelling():
    made = mass(MASKABLE)
    assert made.encoder_ids.tolist() == [BOS, *[MASK] * 8, EOS]
    assert made.decoder_ids.tolist() == SHIFTED[:9].tolist()
    assert made.labels.tolist() == [-100, *SENTENCE[1:9].tolist()]


def test_the_whole_sentence_has_the_loss_of_an_ordinary_language_model(bpe_tokenizer):
    """Teacher forcing over the sentence, with an encoder that sees only masks, step by step."""
    model = new_model("bart", "seq2seq", bpe_tokenizer, ModelSize(32, 1, 2, 64))
    lm = Seq2SeqModel("bart", model, bpe_tokenizer)
    lm.model.eval()
    made = mass(MASKABLE)
    with torch.inference_mode():
        losses_N = lm.token_losses(
            lm.sources([made.encoder_ids]), [made.decoder_ids], [made.labels]
        )
        blind = torch.from_numpy(np.where(MASKABLE, MASK, SENTENCE))[None]
        for place in range(1, 9):
            before = torch.from_numpy(SHIFTED[: place + 1])[None]
            log_probs_V = model(input_ids=blind, decoder_input_ids=before).logits[0, -1]
            expected = -log_probs_V.log_softmax(0)[SENTENCE[place]]
            assert losses_N[place - 1].item() == pytest.approx(expected.item(), rel=1e-4)


def test_scattered_tokens_are_seen_by_the_decoder_once_they_are_past():
    mask = fragment(2, 3) | fragment(5, 6) | fragment(6, 7)
    made = mass(mask)
    assert made.encoder_ids.tolist() == [BOS, 11, MASK, 13, 14, MASK, MASK, 17, 18, EOS]
    assert made.decoder_ids.tolist() == [EOS, BOS, MASK, 12, MASK, MASK, 15]
    assert made.labels.tolist() == [-100, -100, 12, -100, -100, 15, 16]


def test_eight_one_one_within_the_fragment():
    masked = kept = other = 0
    for seed in range(2000):
        made = mass(fragment(3, 7), "bert", seed)
        assert (made.encoder_ids[~fragment(3, 7)] == SENTENCE[~fragment(3, 7)]).all()
        inside, true = made.encoder_ids[3:7], SENTENCE[3:7]
        masked += int((inside == MASK).sum())
        kept += int((inside == true).sum())
        other += int(((inside != MASK) & (inside != true)).sum())
        # What the decoder sees is the truth, whatever the encoder sees.
        assert made.decoder_ids.tolist() == [EOS, BOS, MASK, MASK, 13, 14, 15]
    total = masked + kept + other
    assert [masked / total, kept / total, other / total] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


@pytest.mark.parametrize(("fraction", "length"), [(0, 1), (0.01, 1), (0.25, 2), (0.5, 4), (1, 8)])
def test_fragments_have_the_length_and_are_contiguous(fraction, length):
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(200):
        places = np.flatnonzero(random_fragment(MASKABLE, fraction, rng))
        assert len(places) == length
        assert (np.diff(places) == 1).all()
        assert MASKABLE[places].all()
        starts.add(int(places[0]))
        scattered = random_scattered(MASKABLE, fraction, rng)
        assert scattered.sum() == length
        assert MASKABLE[scattered].all()
    assert starts == set(range(1, 8 - length + 2))


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_k_must_be_a_share(fraction):
    with pytest.raises(ValueError, match=r"between 0 \(one token\) and 1"):
        fragment_length(8, fraction)
