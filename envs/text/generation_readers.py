"""Source and target texts: summaries, translations, dialogues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from envs.text.examples import GenerationExample, Loaded, Skips
from envs.text.files import DataError, Row, as_text, field, suffix, text_lines

END_OF_UTTERANCE = "__eou__"


def read_pairs(
    rows: Iterable[Row], *, columns: tuple[str, str] = ("source", "target"), strict: bool = False
) -> Loaded:
    """One example per row. A source given as a list (of sentences) is joined by spaces; a target
    given as a list is that many accepted targets, as in SciTLDR.

    Raises:
        DataError: on rows of another shape; with ``strict`` on the first thing to skip.
    """
    skips = Skips(strict)
    examples = []
    for number, (where, row) in enumerate(rows):
        source = joined(field(row, columns[0], where), where)
        target = field(row, columns[1], where)
        targets = [as_text(t, where) for t in (target if isinstance(target, list) else [target])]
        kept = tuple(each for each in targets if each)
        if not source:
            skips.add("empty sources", where)
        elif not kept:
            skips.add("rows without a target", where)
        else:
            name = as_text(row.get("id", row.get("paper_id")), where) or str(number)
            group = as_text(row.get("group"), where)
            examples.append(GenerationExample(name, source, kept, group))
    return Loaded(examples, dict(skips.counts))


def joined(value: Any, where: str) -> str:
    """A text, or the texts of a list joined by spaces."""
    values = value if isinstance(value, list) else [value]
    return " ".join(as_text(each, where) for each in values)


def is_parallel(path: Path, columns: tuple[str, str]) -> bool:
    """Whether the file is the source side of a pair such as ``train.en`` and ``train.de``."""
    return suffix(path) == f".{columns[0]}"


def parallel_rows(path: Path, columns: tuple[str, str]) -> Iterator[Row]:
    """Line n of ``name.<source>`` with line n of ``name.<target>``, each plain or gzip."""
    stem = path.name.removesuffix(".gz").removesuffix(f".{columns[0]}")
    names = [f"{stem}.{columns[1]}", f"{stem}.{columns[1]}.gz"]
    other = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if other is None:
        raise FileNotFoundError(f"{path} has no translation: expected {names[0]} beside it.")
    sources, targets = text_lines(path), text_lines(other)
    if len(sources) != len(targets):
        raise DataError(
            f"{path} has {len(sources)} lines and {other} has {len(targets)}; "
            "line n of one must translate line n of the other."
        )
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        yield f"line {number + 1} of {path}", {columns[0]: source, columns[1]: target}


def dialogue_rows(path: Path) -> Iterator[Row]:
    """Every turn but the first of each dialogue, with the turns before it, one a line, as source.

    Dialogues stand one per line, their turns end in ``__eou__`` (DailyDialog).
    """
    for number, line in enumerate(text_lines(path)):
        turns = [turn.strip() for turn in line.split(END_OF_UTTERANCE)]
        turns = turns[:-1] if not turns[-1] else turns
        for turn in range(1, len(turns)):
            yield (
                f"turn {turn + 1}, line {number + 1} of {path}",
                {
                    "id": f"{number}-{turn}",
                    "group": str(number),
                    "source": "\n".join(turns[:turn]),
                    "target": turns[turn],
                },
            )
