"""MASS: masked sequence-to-sequence pre-training (Song et al., ICML 2019).

    whole sentence      x1 x2 x3 x4 x5 x6 x7 x8
    encoder sees        x1 x2  _  _  _  _ x7 x8      the fragment masked, 8:1:1
    decoder sees         _  _  _ x3 x4 x5            the fragment shifted right, the rest masked
    decoder predicts     .  . x3 x4 x5 x6            the fragment, at its original positions

A fragment of one token is masked language modelling: the decoder sees nothing. A fragment of the
whole sentence is causal language modelling: the encoder sees nothing, the decoder an ordinary
language model's input. Nothing here needs the masked tokens to be contiguous: scattered ones give
the denoising baseline, in which the decoder sees every masked token before the present one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.text.corruption import IGNORE


@dataclass(frozen=True, eq=False)
class MaskedSequence:
    """One sequence to pre-train an encoder-decoder on, without padding.

    Attributes:
        encoder_ids: what the encoder sees, (n,).
        decoder_ids: what the decoder sees, (m,); it ends with the last token to predict.
        labels: what it predicts, -100 elsewhere, (m,).
    """

    encoder_ids: np.ndarray
    decoder_ids: np.ndarray
    labels: np.ndarray


def masked_sequence(
    encoder_ids: np.ndarray,
    labels: np.ndarray,
    shifted_ids: np.ndarray,
    *,
    mask_token_id: int,
    special: np.ndarray,
) -> MaskedSequence:
    """Put encoder and decoder together.

    Args:
        encoder_ids: the corrupted sequence, (n,), as ``envs.text.corruption.corrupt`` gives it.
        labels: the original token where masked, -100 elsewhere, (n,); at least one is masked.
        shifted_ids: the decoder's input for the original sequence, (n,): as the model itself makes
            it, so that decoder position i predicts token i.
        mask_token_id: what the decoder sees instead of a token that the encoder sees.
        special: where ``shifted_ids`` has a special token, bool (n,): start token, begin of
            sequence, a language. They are in no fragment, and the decoder sees them always. An
            unknown word is none of them.
    """
    masked = labels != IGNORE
    end = int(np.flatnonzero(masked)[-1]) + 1
    before = np.concatenate([[True], masked[:-1]])
    decoder_ids = np.where(before | special, shifted_ids, mask_token_id)
    return MaskedSequence(encoder_ids, decoder_ids[:end], labels[:end])


def fragment_length(tokens: int, fraction: float) -> int:
    """How many of ``tokens`` a fragment has: the fraction of them, at least one.

    Raises:
        ValueError: if the fraction is not between 0 (one token) and 1 (all).
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"k is {fraction}; it must be between 0 (one token) and 1 (all tokens).")
    return min(tokens, max(1, round(fraction * tokens)))


def random_fragment(maskable: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """A contiguous fragment of the maskable tokens at a uniform place, bool (n,)."""
    return fragment_of_length(maskable, fragment_length(int(maskable.sum()), fraction), rng)


def fragment_of_length(maskable: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """So many of the maskable tokens, or all, contiguous, at a uniform place, bool (n,)."""
    places = np.flatnonzero(maskable)
    length = min(length, len(places))
    start = int(rng.integers(len(places) - length + 1))
    mask = np.zeros(len(maskable), dtype=bool)
    mask[places[start : start + length]] = True
    return mask


def random_scattered(maskable: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """As many tokens as the fragment would have, anywhere, bool (n,)."""
    places = np.flatnonzero(maskable)
    length = fragment_length(len(places), fraction)
    mask = np.zeros(len(maskable), dtype=bool)
    mask[rng.choice(places, length, replace=False)] = True
    return mask
