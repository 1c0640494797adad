"""Where the files of a data set are: a name, a file or a folder gives one path per part."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from envs.text.files import DataError
from envs.text.named import DATASETS, NamedDataset
from envs.text.readers import guess_task

_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
}
_ENDINGS = {"json", "jsonl", "txt", "csv", "tsv", "parquet"}


class MissingDataError(FileNotFoundError):
    """A named data set is not there. The message says where to get it and where to put it."""


@dataclass(frozen=True)
class Located:
    """The files of a data set by part: ``train``, ``dev``, ``test``, or ``whole`` alone."""

    name: str
    task: str
    files: Mapping[str, Path]
    columns: tuple[str, str] | None = None


def data_folder(data_dir: str | Path | None) -> Path:
    """The folder of the named data sets: the argument, else ``NMG_DATA``, else ``./data``."""
    return Path(data_dir or os.environ.get("NMG_DATA") or "data")


def locate(
    name_or_path: str | Path,
    *,
    task: str | None = None,
    data_dir: str | Path | None = None,
    columns: tuple[str, str] | None = None,
    needed: Collection[str] = ("train", "dev", "test"),
) -> Located:
    """Find the files of a named data set, a file or a folder.

    In a folder, a file belongs to the part that a word of its name says (``train``, ``dev``,
    ``valid``, ``validation``, ``val``, ``test``): ``dialogues_train.txt.gz`` is ``train``.

    Args:
        needed: the parts that a named data set must have; dev may always be absent.

    Raises:
        MissingDataError: if a named data set lacks a file.
        FileNotFoundError: if there is neither such a name nor such a path.
        DataError: if the task is another one, or a folder is ambiguous.
    """
    entry = DATASETS.get(str(name_or_path))
    if entry is not None:
        if task not in (None, entry.task):
            raise DataError(f"{entry.name} is a data set for {entry.task}, not for {task}.")
        return _named(entry, data_folder(data_dir), columns, needed)
    path = Path(name_or_path)
    if path.is_dir():
        files = _folder(path)
    elif path.is_file():
        files = {"whole": path}
    else:
        raise FileNotFoundError(
            f"'{name_or_path}' is neither a file, nor a folder, nor a named data set "
            f"({', '.join(DATASETS)}). A data set of the hub is hub:owner/name."
        )
    # By the training file if there is one: whoever does not score reads nothing of the test's.
    task = task or guess_task(files.get("train") or next(iter(files.values())))
    return Located(_short(path), task, files, columns)


def missing(entry: NamedDataset, folder: Path) -> list[str]:
    """The parts of a named data set that are needed and not there."""
    return [
        part
        for part, names in entry.files.items()
        if part != "dev" and _find(entry, folder, names) is None
    ]


def _named(
    entry: NamedDataset, folder: Path, columns: tuple[str, str] | None, needed: Collection[str]
) -> Located:
    files = {}
    for part, names in entry.files.items():
        path = _find(entry, folder, names)
        if path is not None:
            files[part] = path
        elif part != "dev" and part in (*needed, "whole"):
            raise MissingDataError(_where_from(entry, folder))
    for part, path in files.items():
        note = entry.notes.get(path.name.removesuffix(".gz"))
        if note and part in (*needed, "whole"):
            warnings.warn(note, stacklevel=5)
    return Located(entry.name, entry.task, files, columns or entry.columns)


def _find(entry: NamedDataset, folder: Path, names: tuple[str, ...]) -> Path | None:
    roots = [folder / each for each in entry.folders]
    if entry.own_names or folder.name in entry.folders:
        roots.append(folder)
    for name in names:
        for root in roots:
            for path in (root / name, root / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _where_from(entry: NamedDataset, folder: Path) -> str:
    target = folder / entry.folders[0]
    parts = [
        names[0] + ("" if part == "whole" else f" ({part}{', optional' * (part == 'dev')})")
        for part, names in entry.files.items()
    ]
    if entry.columns:
        parts = [f"{part} with its .{entry.columns[1]}" for part in parts]
    lacking = " and ".join(missing(entry, folder)).replace("whole", "data")
    return (
        f"The data set '{entry.name}' has no {lacking} file in {target}. It comes from "
        f"{entry.origin}; licence: {entry.licence}. Put {', '.join(parts)}, plain or .gz, into "
        f"{target}, or name another folder by --data-dir or NMG_DATA."
    )


def _folder(path: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        words = re.split(r"[-_.]", file.name.lower().removesuffix(".gz"))
        parts = {_WORDS[word] for word in words[:-1] if word in _WORDS}
        if not file.is_file() or words[-1] not in _ENDINGS or len(parts) != 1:
            continue
        part = parts.pop()
        if part in files:
            raise DataError(
                f"The folder {path} has two files for {part}: {files[part].name} and {file.name}. "
                "Keep one of them there, or name a file."
            )
        files[part] = file
    if not files:
        raise DataError(
            f"The folder {path} has no data file whose name says train, dev or test "
            f"(endings: {', '.join(sorted(_ENDINGS))}, plain or .gz)."
        )
    return files if set(files) != {"train"} else {"whole": files["train"]}


def _short(path: Path) -> str:
    return re.split(r"\.", path.resolve().name)[0] or path.name
