"""Data sets as splits to train on, to tune on and to test on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from envs.text.examples import (
    Loaded,
    QuestionExample,
    TextExample,
    example_group,
)
from envs.text.files import DataError, Row
from envs.text.hub import PREFIX, hub_splits
from envs.text.locate import locate
from envs.text.readers import examples_of, read_examples

SPLITS = ("train", "dev", "test")
HELD_OUT = 0.1
"""Share of a single published set that goes to ``dev``, and again to ``test``."""
_MIN_TITLES = 10
Read = Callable[[], Loaded]


class UnknownLabelError(ValueError):
    """A split has a label that the train split does not have."""


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set, ready for a task.

    Attributes:
        train, dev, test: examples; ``None`` where the data set has no such split. Nothing may be
            chosen by looking at ``test``.
        skipped: by file part (``whole`` for a single file), what was left out and how often.
    """

    name: str
    task: str
    train: Sequence[Any]
    dev: Sequence[Any] | None = None
    test: Sequence[Any] | None = None
    skipped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted: those of the train split. Empty for other tasks."""
        return _labels(self.train)

    def parts(self) -> dict[str, Sequence[Any]]:
        """The splits that are there, by name."""
        found = {name: getattr(self, name) for name in SPLITS}
        return {name: examples for name, examples in found.items() if examples is not None}


def load_splits(
    name_or_path: str | Path,
    *,
    task: str | None = None,
    data_dir: str | Path | None = None,
    strict: bool = False,
    test: str | Path | None = None,
    columns: tuple[str, str] | None = None,
    parts: Collection[str] = SPLITS,
) -> Splits:
    """Load a named data set, a file, a folder or a hub data set (``hub:owner/name``).

    A single published set or a single file is split by article (by context, text or dialogue
    where there are no articles): 80% train, 10% dev, 10% test, always the same way. A data set
    without a test split, but with a dev split, is tested on that.

    Args:
        task: ``qa``, ``classification`` or ``generation``; found out where it is not given.
        data_dir: folder of the named data sets; else ``NMG_DATA``, else ``./data``.
        strict: raise on the first row or answer that would be skipped.
        test: name or path of another data set to test on. Of a single published set or a single
            file all of it is taken: nothing of it was trained on. The data set itself, however
            it is spelled, is as if none was given; its dev file, tested on, is no longer ``dev``.
        columns: names of the text and label (source and target) columns.
        parts: the splits that are needed, ``train`` among them; files of the others may be absent
            and are not read.

    Raises:
        MissingDataError, FileNotFoundError: if it is not there; the message says what to do.
        DataError: if a file is empty, damaged or of the wrong shape, or ``test`` is the training
            file.
        UnknownLabelError: if dev or test has a class that train has not.
    """
    if test is not None and (str(test) == str(name_or_path) or "test" not in parts):
        test = None
    own = set(parts) if test is None else set(parts) - {"test"}
    name, task, found, files = _parts(name_or_path, task, data_dir, strict, columns, own)
    if test is not None:
        _, _, other, places = _parts(test, task, data_dir, strict, columns, {"test"})
        tested = next(part for part in ("test", "dev", "whole", "train") if part in other)
        same = _part_of(files, places.get(tested))
        if same == "train":
            raise DataError(f"{test} is what {name} is trained on; give another test set.")
        if same == "dev":
            own.discard("dev")
        elif same is not None:
            test, own = None, set(parts)
    splits = _arrange(name, task, found, own, dev_is_test=test is None)
    if test is not None:
        loaded = other[tested]()
        skipped = {**splits.skipped, "test": dict(loaded.skipped)}
        splits = replace(splits, test=loaded.examples, skipped=skipped)
    _check_labels(splits)
    return splits


def _parts(
    name_or_path: str | Path,
    task: str | None,
    data_dir: str | Path | None,
    strict: bool,
    columns: tuple[str, str] | None,
    needed: Collection[str],
) -> tuple[str, str, Mapping[str, Read], Mapping[str, Path]]:
    """Name, task, what reads each part that is there, and its file if it has one."""
    name = str(name_or_path)
    if not name.startswith(PREFIX):
        found = locate(name_or_path, task=task, data_dir=data_dir, columns=columns, needed=needed)
        reading = {
            part: partial(read_examples, path, found.task, strict, found.columns)
            for part, path in found.files.items()
        }
        return found.name, found.task, reading, found.files
    if task is None:
        raise DataError(f"Say which task {name} is for: qa, classification or generation.")
    hub = {
        part: partial(examples_of, _placed(f"{part} of {name}", values), task, strict, columns)
        for part, values in hub_splits(name).items()
    }
    return name.removeprefix(PREFIX).replace("/", "-").replace(":", "-"), task, hub, {}


def _part_of(files: Mapping[str, Path], tested: Path | None) -> str | None:
    """The part whose file that is, however its path is spelled."""
    if tested is None:
        return None
    return next((part for part, path in files.items() if path.samefile(tested)), None)


def _placed(where: str, values: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, row in enumerate(values):
        yield f"row {number} of {where}", row


def _arrange(
    name: str, task: str, found: Mapping[str, Read], needed: Collection[str], *, dev_is_test: bool
) -> Splits:
    split_of = {part: part for part in found}
    if dev_is_test and "test" not in found and "dev" in found:
        split_of["dev"] = "test"
    loaded = {part: read() for part, read in found.items() if split_of[part] in (*needed, "whole")}
    examples: dict[str, Sequence[Any] | None]
    if "whole" in loaded:
        examples = dict(zip(SPLITS, split_by_group(loaded["whole"].examples), strict=True))
    else:
        examples = {split_of[part]: each.examples or None for part, each in loaded.items()}
    train, dev, test = (examples.get(split) if split in needed else None for split in SPLITS)
    if not train:
        raise DataError(f"{name} has no training examples; it has: {', '.join(found) or '-'}.")
    skipped = {part: dict(each.skipped) for part, each in loaded.items()}
    return Splits(name, task, train, dev, test, skipped)


def split_by_group(
    examples: Sequence[Any],
) -> tuple[list[Any], list[Any] | None, list[Any] | None]:
    """Train, dev and test of a single set; examples of one article or group stay together.

    Which group goes where depends on the groups' names alone, so every run splits alike.
    """
    group_of = _grouping(examples)
    groups: dict[str, list[Any]] = defaultdict(list)
    for example in examples:
        groups[group_of(example)].append(example)
    room = {"test": HELD_OUT * len(examples), "dev": HELD_OUT * len(examples)}
    place = {}
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        fits = [part for part, left in room.items() if len(groups[group]) <= left]
        place[group] = fits[0] if fits else "train"
        if fits:
            room[fits[0]] -= len(groups[group])
    trained = set(_labels([each for each in examples if place[group_of(each)] == "train"]))
    for name, members in groups.items():  # a label that is seen once must be trained on
        if not trained.issuperset(_labels(members)):
            place[name] = "train"
            trained.update(_labels(members))
    parts: dict[str, list[Any]] = {name: [] for name in SPLITS}
    for example in examples:  # the order of the file is kept
        parts[place[group_of(example)]].append(example)
    return parts["train"], parts["dev"] or None, parts["test"] or None


def _grouping(examples: Sequence[Any]) -> Callable[[Any], str]:
    # One title for everything (or none) says nothing; paragraphs are the next best.
    questions = isinstance(examples[0], QuestionExample)
    if questions and len({example.title for example in examples}) >= _MIN_TITLES:
        return lambda example: example.title
    return example_group


def _labels(examples: Sequence[Any]) -> tuple[str, ...]:
    return tuple(sorted({each.label for each in examples if isinstance(each, TextExample)}))


def _check_labels(splits: Splits) -> None:
    for name, examples in splits.parts().items():
        unknown = sorted(set(_labels(examples)) - set(splits.labels))
        if unknown:
            raise UnknownLabelError(
                f"The {name} split of {splits.name} has labels that the train split does not "
                f"have: {', '.join(unknown)} (train has: {', '.join(splits.labels)}). "
                "Use a test set with the same labels."
            )
