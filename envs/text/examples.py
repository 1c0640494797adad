"""What the readers give: examples of the three tasks, and a count of what was left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from envs.text.files import DataError


@dataclass(frozen=True)
class QuestionExample:
    """A question on a context.

    Attributes:
        title: the article the context is from, "" where the format has none.
        answers: (text, character offset of the text in the context); empty for an impossible one.
        accepted: further texts that are right when it comes to scoring; they need not stand in
            the context.
    """

    id: str
    title: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]
    is_impossible: bool = False
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextExample:
    """A text with its class.

    Attributes:
        group: examples of one group (sentences of one abstract) stay in one split.
    """

    id: str
    text: str
    label: str
    group: str = ""


@dataclass(frozen=True)
class GenerationExample:
    """A text to write from a source.

    Attributes:
        targets: every accepted output, the first one to train on.
        group: examples of one group (turns of one dialogue) overlap and stay in one split.
    """

    id: str
    source: str
    targets: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True, eq=False)
class Loaded:
    """The examples of one file and, by reason, how many rows or answers were skipped."""

    examples: Sequence[Any]
    skipped: Mapping[str, int] = field(default_factory=dict)


class Skips:
    """Counts what is left out; with ``strict`` the first such thing is an error."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()

    def add(self, reason: str, where: str) -> None:
        if self.strict:
            raise DataError(
                f"Strict reading: {reason}, at {where}. "
                "Repair the file, or leave strict out to skip and count such rows."
            )
        self.counts[reason] += 1


def example_text(example: Any) -> str:
    """The text of an example that a language model may be pre-trained on."""
    if isinstance(example, QuestionExample):
        return example.context
    return example.text if isinstance(example, TextExample) else example.source


_UNSPACED = (
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Ideographs and kana, which are written without spaces."""
_WORD = re.compile(rf"(?=\w)[{_UNSPACED}]|[^\W{_UNSPACED}]+")


@lru_cache(maxsize=4096)  # the questions on one context follow one another
def plain_words(text: str) -> str:
    """The words of a text, without marks around them, case and spacing; itself if it has none.

    An ideograph (Chinese, Japanese) and a kana is a word each.
    """
    return " ".join(_WORD.findall(text.lower())) or text


def example_group(example: Any, text: Callable[[Any], str] = example_text) -> str:
    """What stays in one split with everything alike: a dialogue or an abstract, else the words of
    the text (the same sentence with other entities marked is the same sentence).

    Args:
        example: of any task.
        text: the text of an example.
    """
    grouped = isinstance(example, (TextExample, GenerationExample))
    named = example.group if grouped else ""
    return named or plain_words(text(example))
