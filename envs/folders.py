"""Folders that programs write: refused before anything is computed, whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def refuse_file(folder: Path) -> None:
    """See to it that results can be written to a folder, before hours are spent on them.

    Raises:
        ValueError: if there is a file of that name, or of one that it lies in.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file; --output is a folder to write to.")


def check_output(folder: Path) -> None:
    """See to it that a folder can be written and holds nothing yet.

    Raises:
        ValueError: if it is a file, lies in one, or is not empty.
        OSError: if nothing can be written there.
    """
    refuse_file(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give another --output.")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    Path(tempfile.mkdtemp(dir=folder.parent)).rmdir()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of ``folder`` in the end, and goes on an error."""
    folder = folder.resolve()
    # Always the same, so that what a kill leaves behind is gone the next time.
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
