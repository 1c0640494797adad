"""Run folders: where they lie, what they say of their run, and whether they may be written to."""

from __future__ import annotations

import itertools
import math
import os
import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from envs.folders import check_writable, is_full_disk, write_text
from nmg.options import ConfigError, differences, flatten, leaves, read_settings

try:
    import fcntl
except ImportError:  # on Windows: runs do not keep each other out
    fcntl = None  # type: ignore[assignment]

RESOLVED = "resolved.yaml"
"""By this file, which holds every setting, a folder is known to hold a run."""
SHOWN = 3
"""Names of settings that a message tells, of many."""


def run_folder(config: Any, name: str | None, kind: str) -> Path:
    """``output/DATASET/MODEL/NAME_KIND``."""
    name = name or datetime.now().strftime("%Y%m%d-%H%M%S")
    parts = [Path(str(part)).name for part in (config.data.dataset, config.data.model)]
    return Path("output", *parts, f"{name}_{kind}")


@contextmanager
def claimed(folder: Path, *, anew: bool = False) -> Iterator[Path]:
    """A folder that no other run may write to meanwhile; a new one that stays empty goes again.

    Args:
        folder: ``NAME_KIND``, to write to.
        anew: where there is a folder of that name, make ``NAME-2_KIND`` and so on.

    Raises:
        ValueError: if another run has it, or nothing can be written there.
    """
    check_writable(folder)
    name, _, kind = folder.name.rpartition("_")
    for number in itertools.count(2):
        new = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=not anew)
            break
        except FileExistsError:
            if not anew:
                raise
            folder = folder.with_name(f"{name}-{number}_{kind}")
    with _locked(folder):
        try:
            yield folder
        finally:
            with suppress(OSError):  # something was written
                for place in new:
                    place.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # The folder itself is locked: no file is left behind, and a kill unlocks it.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is being written by another run; wait for its end, or give another "
                "--name or --output."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def write_settings(folder: Path, config: Any) -> None:
    """Write ``config.yaml`` (what differs from the defaults) and ``resolved.yaml`` (everything)."""
    for name, values in (("config.yaml", differences(config)), (RESOLVED, flatten(config))):
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else "{}\n"
        write_text(folder / name, text)


def check_free(folder: Path) -> None:
    """See to it that the folder holds no run yet.

    Raises:
        ValueError: if it does.
    """
    if (folder / RESOLVED).exists():
        raise ConfigError(
            f"{folder} already holds a run; go on with it by --resume {shlex.quote(str(folder))}, "
            "or give another --name or --output."
        )


def check_same(folder: Path, config: Any, free: Collection[str]) -> None:
    """See to it that the folder is free or holds results of the same settings.

    Args:
        folder: to write to.
        config: the settings now.
        free: settings that may be others than before.

    Raises:
        ValueError: if it holds another run.
    """
    if not (folder / RESOLVED).is_file():
        return
    before, now = read_settings(folder / RESOLVED), flatten(config)
    # A setting that is not there counts, too: of what it was, nothing is known.
    names = [name for name in now if name not in before or before[name] != now[name]]
    names = [name for name in (*names, *before.keys() - now.keys()) if name not in free]
    if names:
        raise ValueError(
            f"{folder} already holds another run, with another {listed(names)}; give another "
            "--name or --output."
        )


def keep_results(folder: Path, lost: Callable[[dict[str, Any]], list[str]]) -> None:
    """See to it that nothing goes from the results of a folder: they are written anew.

    Args:
        folder: where ``results.json`` is, or is not yet.
        lost: names what the results to come would not hold, given those that are there.

    Raises:
        ValueError: if something would go, or the results are damaged.
    """
    from nmg.checkpoint import read_object

    path = folder / "results.json"
    if not path.is_file():
        return
    before = read_object(path)
    try:
        gone = lost(before)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged; delete it, and it is written anew.") from error
    if gone:
        raise ValueError(
            f"{folder} holds results that this command would remove: {', '.join(gone)}; ask for "
            "them, too, or give another --name or --output."
        )


def whole_settings(run: Path, cls: type) -> dict[str, Any]:
    """The settings that a run was started with, every one of a configuration class.

    Raises:
        FileNotFoundError: if it is no run folder.
        ConfigError: if a setting is not there. Its default would make another run of it; one of
            an older version can go on when it is written there by hand what it did.
    """
    path = run / RESOLVED
    if not path.is_file():
        raise FileNotFoundError(f"There is no run to resume in {run}: no {RESOLVED}.")
    values = read_settings(path)
    lacking = [name for name in leaves(cls) if name not in values]
    if lacking:
        raise ConfigError(
            f"{path} does not say {listed(lacking)}: it is damaged, or of an older version; put a "
            "copy back, or add them as they were in that run."
        )
    return values


def trained_settings(policy: Path) -> dict[str, Any]:
    """The settings that a policy was trained with, if it lies in a run folder."""
    for folder in (policy, policy.parent.parent):
        if (folder / RESOLVED).is_file():
            return read_settings(folder / RESOLVED)
    return {}


def finite(value: Any) -> Any:
    """The same for JSON, which has no infinities and no NaN: they become null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def listed(names: Collection[str]) -> str:
    """``a, b, c and 4 more``."""
    shown, more = list(names)[:SHOWN], len(names) - SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


@contextmanager
def stoppable(command: str, folder: Path) -> Iterator[None]:
    """Let a run that is stopped, by a full disk too, end with a word on how to go on.

    Files are whole at any moment.

    Args:
        command: that goes on.
        folder: where to; a run that is stopped before it has one cannot go on.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error) or not (folder / RESOLVED).exists():
            raise
        raise OSError(
            f"{folder} cannot be written: no space is left on the disk; what was done is kept. "
            f"Make room, then go on with: {command}"
        ) from error
    except KeyboardInterrupt:
        if not (folder / RESOLVED).exists():
            raise KeyboardInterrupt("stopped before anything was done.") from None
        raise KeyboardInterrupt(f"stopped; what was done is kept. Go on with: {command}") from None
