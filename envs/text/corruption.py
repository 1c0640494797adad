"""From a mask to the inputs and labels of masked language modelling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

IGNORE = -100
"""Label of a position without a loss, as torch's cross entropy has it."""
KEEP_SHARE, RANDOM_SHARE = 0.1, 0.1


def corrupt(
    input_ids: np.ndarray,
    mask: np.ndarray,
    *,
    mask_token_id: int,
    vocab_size: int,
    special_ids: Iterable[int],
    rule: Literal["bert", "mask"],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace masked tokens, leave the rest.

    ``bert``: 80% become the mask token, 10% a random token that is not special, 10% stay as they
    are. ``mask``: all become the mask token.

    The numbers drawn depend on the shape alone: two masks corrupted with equally seeded
    generators treat the tokens that they share alike, which makes their scores comparable.

    Args:
        input_ids: token ids, any signed integer type, any shape.
        mask: which of them to predict, bool or 0/1, same shape.
        special_ids: ids never used as a random replacement.

    Returns:
        The corrupted ids and the labels (the original id where masked, -100 elsewhere), fresh
        arrays of the type and shape of ``input_ids``.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != input_ids.shape:
        raise ValueError(f"The mask has shape {mask.shape}, the ids have {input_ids.shape}.")
    labels = np.where(mask, input_ids, np.array(IGNORE, dtype=input_ids.dtype))
    replacement = np.full_like(input_ids, mask_token_id)
    if rule == "bert":
        draw = rng.random(input_ids.shape)
        tokens = _random_tokens(input_ids.shape, vocab_size, special_ids, rng)
        replacement = np.where(draw < KEEP_SHARE + RANDOM_SHARE, tokens, replacement)
        replacement = np.where(draw < KEEP_SHARE, input_ids, replacement)
    elif rule != "mask":
        raise ValueError(f"There is no corruption rule '{rule}'; expected 'bert' or 'mask'.")
    return np.where(mask, replacement, input_ids).astype(input_ids.dtype, copy=False), labels


def _random_tokens(
    shape: tuple[int, ...], vocab_size: int, special_ids: Iterable[int], rng: np.random.Generator
) -> np.ndarray:
    """Uniform over the vocabulary without the special ids, without listing the vocabulary."""
    special = np.unique([each for each in special_ids if 0 <= each < vocab_size]).astype(np.int64)
    if len(special) >= vocab_size:
        raise ValueError(f"All {vocab_size} ids of the vocabulary are special.")
    ranks = rng.integers(0, vocab_size - len(special), size=shape)
    # The r-th ordinary id is r plus the special ids at or below it.
    return ranks + np.searchsorted(special - np.arange(len(special)), ranks, side="right")
