"""What a data set holds and what is wrong with it, as counts and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from envs.text.datasets import Splits
from envs.text.examples import QuestionExample, TextExample, example_text, plain_words


@dataclass(frozen=True)
class SplitReport:
    """Counts of one split.

    Attributes:
        rows: usable examples.
        texts: different texts (contexts, for questions).
        repeated: rows less different rows (by text; by context and question).
        duplicate_ids: ids used more than once.
        impossible: questions marked as having no answer.
        labels: rows per class, most frequent first.
    """

    rows: int
    texts: int
    repeated: int
    duplicate_ids: int
    impossible: int
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Counts of a data set; ``str`` gives them as a table.

    Attributes:
        skipped: by file part, what the reader left out: answers not at their offset, empty
            contexts, empty texts, rows without a label, ...
        shared: different texts, by their words alone, that two splits share, by pair.
        shared_ids: the same for ids, where the data set gives questions ids.
    """

    name: str
    task: str
    splits: Mapping[str, SplitReport]
    skipped: Mapping[str, Mapping[str, int]]
    shared: Mapping[tuple[str, str], int]
    shared_ids: Mapping[tuple[str, str], int]

    def __str__(self) -> str:
        return "\n".join([f"{self.name} ({self.task})", *self._counts(), *self._findings()])

    def _counts(self) -> list[str]:
        heads = ["split", "rows", "texts", "repeated", "duplicate ids"]
        table = [heads]
        for name, each in self.splits.items():
            counts = (each.rows, each.texts, each.repeated, each.duplicate_ids)
            table.append([name, *(f"{count:,}" for count in counts)])
        if self.task == "qa":
            impossible = [f"{each.impossible:,}" for each in self.splits.values()]
            last = ["impossible", *impossible]
            table = [[*row, cell] for row, cell in zip(table, last, strict=True)]
        labels = dict.fromkeys(label for each in self.splits.values() for label in each.labels)
        if not labels:
            return aligned(table)
        table_of_labels = [["label", *self.splits]]
        for label in labels:
            of_label = [each.labels.get(label, 0) for each in self.splits.values()]
            table_of_labels.append([label, *(f"{count:,}" for count in of_label)])
        return [*aligned(table), "", *aligned(table_of_labels)]

    def _findings(self) -> list[str]:
        lines = [
            f"skipped in {part}: {count:,} {reason}"
            for part, reasons in self.skipped.items()
            for reason, count in reasons.items()
        ]
        if self.task == "qa" and not any("offset" in line for line in lines):
            lines.append("every answer is at its offset")
        for (first, second), count in self.shared.items():
            lines.append(f"texts in both {first} and {second}: {count:,}")
        for (first, second), count in self.shared_ids.items():
            lines.append(f"ids in both {first} and {second}: {count:,}")
        return ["", *lines] if lines else []


def check(splits: Splits) -> Report:
    """Count rows, repetitions, damage and overlap of a loaded data set."""
    parts = splits.parts()
    texts = {
        name: {plain_words(example_text(each)) for each in examples}
        for name, examples in parts.items()
    }
    ids = {name: {each.id for each in examples} for name, examples in parts.items()}
    pairs = list(combinations(parts, 2))
    return Report(
        name=splits.name,
        task=splits.task,
        splits={name: _split(examples) for name, examples in parts.items()},
        skipped={part: dict(reasons) for part, reasons in splits.skipped.items() if reasons},
        shared={(a, b): len(texts[a] & texts[b]) for a, b in pairs},
        # Only questions carry ids of their own; the others are mostly row numbers.
        shared_ids={(a, b): len(ids[a] & ids[b]) for a, b in pairs if splits.task == "qa"},
    )


def _split(examples: Sequence[Any]) -> SplitReport:
    ids = Counter(example.id for example in examples)
    labels = Counter(each.label for each in examples if isinstance(each, TextExample))
    return SplitReport(
        rows=len(examples),
        texts=len(set(map(example_text, examples))),
        repeated=len(examples) - len(set(map(_content, examples))),
        duplicate_ids=sum(count > 1 for count in ids.values()),
        impossible=sum(isinstance(e, QuestionExample) and e.is_impossible for e in examples),
        labels=dict(labels.most_common()),
    )


def _content(example: Any) -> tuple[str, str]:
    """What makes two rows the same."""
    question = example.question if isinstance(example, QuestionExample) else ""
    return example_text(example), question


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows as text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([f"{first.strip():<{widths[0]}}", *others]).rstrip())
    return lines
