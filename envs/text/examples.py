"""What the readers give: examples of the three tasks, and a count of what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.text.files import DataError


@dataclass(frozen=True)
class QuestionExample:
    """A question on a context.

    Attributes:
        title: the article the context is from, "" where the format has none.
        answers: (text, character offset of the text in the context); empty for an impossible one.
    """

    id: str
    title: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]
    is_impossible: bool = False


@dataclass(frozen=True)
class TextExample:
    """A text with its class."""

    id: str
    text: str
    label: str


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
