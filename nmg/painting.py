"""A text with its masked words in colour, or in brackets where there is none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


def use_colour(stream: Any) -> bool:
    """Colour on a terminal, unless NO_COLOR says otherwise; FORCE_COLOR for pipes."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def painted(text: str, spans: Sequence[tuple[int, int]], colour: bool) -> str:
    """The text with the spans in colour, or in brackets."""
    pieces, at = [], 0
    for start, end in spans:
        # Byte-level tokens begin with the space before the word.
        start += len(text[start:end]) - len(text[start:end].lstrip())
        pieces += [text[at:start], _paint(text[start:end], colour)]
        at = end
    return "".join([*pieces, text[at:]])


def _paint(text: str, colour: bool) -> str:
    return f"\x1b[1;97;44m{text}\x1b[0m" if colour else f"[{text}]"
