"""From masked contexts to what a language model is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from envs.text.corruption import IGNORE, corrupt

if TYPE_CHECKING:
    from envs.models.language_model import LanguageModel


def corrupted(
    lm: LanguageModel,
    input_ids: np.ndarray,
    mask: np.ndarray,
    rule: Literal["bert", "mask"],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels as ``corrupt`` makes them, with a model's own mask token and vocabulary."""
    return corrupt(
        input_ids,
        mask,
        mask_token_id=lm.mask_token_id,
        vocab_size=len(lm.tokenizer),
        special_ids=lm.tokenizer.all_special_ids,
        rule=rule,
        rng=rng,
    )


def labelled(labels_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where there is something to predict, int64 (M,), and what, (M,).

    Args:
        labels_T: of sequences laid one after another.
    """
    positions_M = np.flatnonzero(labels_T != IGNORE)
    return positions_M, labels_T[positions_M]
