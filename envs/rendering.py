"""Contexts as people read them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.utils import colorize

from envs.text.corpus import Context


def masked_text(context: Context, mask: np.ndarray, tokenizer: Any) -> str:
    """The words of a context, those with a masked token in colour."""
    words = []
    starts = np.flatnonzero(np.diff(context.word_ids, prepend=-2))
    for start, end in zip(starts, [*starts[1:], len(context)], strict=True):
        if context.word_ids[start] < 0:
            continue
        word = tokenizer.decode(context.input_ids[start:end].tolist()).strip()
        hit = mask[start:end].any()
        words.append(colorize(word, "yellow", highlight=True) if hit else word)
    return " ".join(words)
