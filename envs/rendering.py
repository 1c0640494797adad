"""Texts with their masked words in colour, or in brackets where there is none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.text.corpus import Context


def use_colour(stream: Any) -> bool:
    """Colour on a terminal, unless NO_COLOR says otherwise; FORCE_COLOR for pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def masked_text(context: Context, mask: np.ndarray, tokenizer: Any, colour: bool) -> str:
    """The words of a context, those with a masked token marked."""
    words = []
    starts = np.flatnonzero(np.diff(context.word_ids, prepend=-2))
    for start, end in zip(starts, [*starts[1:], len(context)], strict=True):
        if context.word_ids[start] < 0:
            continue
        word = tokenizer.decode(context.input_ids[start:end].tolist()).strip()
        words.append(_marked(word, colour) if mask[start:end].any() else word)
    return " ".join(words)


def painted(text: str, spans: Sequence[tuple[int, int]], colour: bool) -> str:
    """The text with the spans marked."""
    pieces, at = [], 0
    for start, end in spans:
        # Byte-level tokens begin with the space before the word.
        start += len(text[start:end]) - len(text[start:end].lstrip())
        pieces += [text[at:start], _marked(text[start:end], colour)]
        at = end
    return "".join([*pieces, text[at:]])


def _marked(text: str, colour: bool) -> str:
    return f"\x1b[1;97;44m{text}\x1b[0m" if colour else f"[{text}]"
