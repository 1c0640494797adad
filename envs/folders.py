"""What programs write: refused before anything is computed, and whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_writable(folder: Path) -> None:
    """See to it that results can be written to a folder, before hours are spent on them; leaves no
    trace.

    Raises:
        ValueError: if it is a file, lies in one, or nothing can be written there.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file; --output is a folder to write to.")
    place = next(place for place in (folder, *folder.resolve().parents) if place.is_dir())
    try:
        Path(tempfile.mkdtemp(dir=place)).rmdir()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(
            f"{folder} cannot be written ({reason}); give another --output."
        ) from error


def check_output(folder: Path) -> None:
    """See to it that a folder can be written and holds nothing yet.

    Raises:
        ValueError: if it is a file, lies in one, is not empty, or nothing can be written there.
    """
    check_writable(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give another --output.")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of ``folder`` in the end, and goes on an error.

    Raises:
        OSError: of a full disk, in one sentence.
    """
    folder = folder.resolve()
    # Always the same, so that what a kill leaves behind is gone the next time.
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        share(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if is_full_disk(error):
            raise OSError(
                f"{folder} cannot be written: no space is left on the disk; nothing was kept. Make "
                "room, then give the same command again."
            ) from error
        raise


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error says that nothing more fits: each library has its own class for it, and not
    all name a file."""
    return error is not None and (
        "No space left on device" in str(error) or is_full_disk(error.__cause__)
    )


def share(folder: Path) -> None:
    """Let those read a folder's files who may read the folder: safetensors makes its own private,
    and models lie in caches that may be shared."""
    readable = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(readable)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
