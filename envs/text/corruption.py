"""From a mask to what the language model sees and must predict (BERT, Devlin et al. 2019, §3.1)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np

IGNORE = -100
"""Label of a token that need not be predicted (torch's ignore_index)."""

Rule = Literal["bert", "mask"]


def corrupt(
    input_ids: np.ndarray,
    mask: np.ndarray,
    *,
    mask_token_id: int,
    vocab_size: int,
    special_ids: Collection[int],
    rule: Rule,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace the masked tokens.

    Numbers are drawn for every position whether masked or not, so that two masks of one context,
    given generators of one seed, treat the tokens that both mask alike.

    Args:
        input_ids: token ids, shape (n,).
        mask: tokens to predict, bool or 0/1, shape (n,).
        mask_token_id: id of [MASK].
        vocab_size: random replacements are below it.
        special_ids: never used as a replacement.
        rule: ``bert``: 80% [MASK], 10% a random token, 10% unchanged; ``mask``: always [MASK].
        rng: where the draws come from.

    Returns:
        The corrupted ids, int64 (n,), and the labels, int64 (n,), -100 where nothing is predicted.
    """
    chosen = np.asarray(mask, dtype=bool)
    ids = np.asarray(input_ids, dtype=np.int64)
    labels = np.where(chosen, ids, IGNORE)
    if rule == "mask":
        return np.where(chosen, mask_token_id, ids), labels
    if rule != "bert":
        raise ValueError(f"The corruption rule is {rule!r}; it must be 'bert' or 'mask'.")
    fate = rng.random(len(ids))
    replacement = _random_ids(vocab_size, special_ids, len(ids), rng)
    corrupted = np.where(chosen & (fate < 0.8), mask_token_id, ids)
    return np.where(chosen & (fate >= 0.8) & (fate < 0.9), replacement, corrupted), labels


def _random_ids(
    vocab_size: int, special: Collection[int], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Uniform over the ids that are not special: draw among the rest, then step over the special."""
    forbidden = sorted({int(i) for i in special if i < vocab_size})
    ids = rng.integers(0, vocab_size - len(forbidden), size=count)
    for special_id in forbidden:
        ids = ids + (ids >= special_id)
    return ids
