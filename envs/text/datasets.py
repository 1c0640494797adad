"""Data sets as splits to train on, to tune on and to test on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from envs.text.examples import (
    Loaded,
    QuestionExample,
    TextExample,
    example_group,
)
from envs.text.files import DataError
from envs.text.hub import PREFIX, hub_splits
from envs.text.locate import locate
from envs.text.readers import examples_of, read_examples

SPLITS = ("train", "dev", "test")
HELD_OUT = 0.1
"""Share of a single published set that goes to ``dev``, and again to ``test``."""
_MIN_TITLES = 10


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
            file all of it is taken: nothing of it was trained on.
        columns: names of the text and label (source and target) columns.

    Raises:
        MissingDataError, FileNotFoundError: if it is not there; the message says what to do.
        DataError: if a file is empty, damaged or of the wrong shape.
        UnknownLabelError: if dev or test has a class that train has not.
    """
    if test is not None and str(test) == str(name_or_path):
        test = None
    if str(name_or_path).startswith(PREFIX):
        name, task, loaded = _from_hub(str(name_or_path), task, strict, columns)
    else:
        found = locate(
            name_or_path,
            task=task,
            data_dir=data_dir,
            columns=columns,
            only=None if test is None else "train",
        )
        name, task = found.name, found.task
        loaded = {
            part: read_examples(path, task, strict, found.columns)
            for part, path in found.files.items()
            if part != "test" or test is None
        }
    splits = _arrange(name, task, loaded)
    if test is not None:
        other = _test_part(test, task, data_dir, strict, columns)
        skipped = {**splits.skipped, "test": dict(other.skipped)}
        splits = replace(splits, test=other.examples, skipped=skipped)
    _check_labels(splits)
    return splits


def _from_hub(
    name: str, task: str | None, strict: bool, columns: tuple[str, str] | None
) -> tuple[str, str, dict[str, Loaded]]:
    if task is None:
        raise DataError(f"Say which task {name} is for: qa, classification or generation.")
    loaded = {}
    for part, values in hub_splits(name).items():
        rows = ((f"row {number} of {part} of {name}", row) for number, row in enumerate(values))
        loaded[part] = examples_of(rows, task, strict, columns)
    return name.removeprefix(PREFIX).replace("/", "-").replace(":", "-"), task, loaded


def _arrange(name: str, task: str, loaded: Mapping[str, Loaded]) -> Splits:
    skipped = {part: dict(each.skipped) for part, each in loaded.items()}
    examples = {part: each.examples for part, each in loaded.items() if each.examples}
    if "whole" in examples:
        return Splits(name, task, *split_by_group(examples["whole"]), skipped)
    if "train" not in examples:
        raise DataError(f"{name} has no training examples; it has: {', '.join(examples) or '-'}.")
    dev, test = examples.get("dev"), examples.get("test")
    if test is None and "test" not in loaded:
        dev, test = None, dev
    return Splits(name, task, examples["train"], dev, test, skipped)


def _test_part(
    test: str | Path,
    task: str,
    data_dir: str | Path | None,
    strict: bool,
    columns: tuple[str, str] | None,
) -> Loaded:
    order = ("test", "dev", "whole", "train")
    if str(test).startswith(PREFIX):
        loaded = _from_hub(str(test), task, strict, columns)[2]
        return next(loaded[part] for part in order if part in loaded)
    found = locate(test, task=task, data_dir=data_dir, columns=columns, only="test")
    path = next(found.files[part] for part in order if part in found.files)
    return read_examples(path, task, strict, found.columns)


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
