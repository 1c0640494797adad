"""The records of a run, episode by episode: what was scored, and how long it took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nmg.run_folders import finite


class RunLog:
    """The records of a run: metrics.jsonl, times.jsonl and TensorBoard events.

    ``metrics.jsonl`` holds nothing that depends on the clock, so the same seed gives the same
    bytes; seconds go to ``times.jsonl``.

    Args:
        folder: the run folder.
        resume_at: keep the records of the episodes before this one, drop later ones.
        tensorboard: write events too.
    """

    def __init__(self, folder: Path, *, resume_at: int = 0, tensorboard: bool = True) -> None:
        self._metrics = _open_from(folder / "metrics.jsonl", resume_at)
        self._times = _open_from(folder / "times.jsonl", resume_at)
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at)

    def write(self, episode: int, record: Mapping[str, Any], seconds: float) -> None:
        """Record an episode; nested names are joined by a slash for TensorBoard.

        Args:
            episode: its number.
            record: what metrics.jsonl says of it.
            seconds: that it took, with its updates and the validation after it.
        """
        _write_line(self._metrics, {"episode": episode, **record})
        _write_line(self._times, {"episode": episode, "seconds": round(seconds, 4)})
        if self._events is not None:
            for name, value in _scalars(record):
                self._events.add_scalar(name, value, episode)
            self._events.add_scalar("time/episode_seconds", seconds, episode)

    def close(self) -> None:
        self._metrics.close()
        self._times.close()
        if self._events is not None:
            self._events.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The episodes in a jsonl file, one a line; a last line that was cut off is left out.

    Raises:
        ValueError: if another line is damaged.
    """
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        try:
            records += [_episode(line)] if line.endswith(b"\n") else []
        except ValueError as error:
            raise ValueError(
                f"Line {number + 1} of {path} is damaged ({error}); mend or delete it."
            ) from error
    return records


def _episode(line: bytes) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("episode"), int):
        raise ValueError("it does not say of which episode it is")
    return record


def _open_from(path: Path, resume_at: int) -> IO[str]:
    kept = [record for record in read_records(path) if record["episode"] < resume_at]
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for record in kept:
            _write_line(file, record)
    part.replace(path)
    return path.open("a", encoding="utf-8")


def _write_line(file: IO[str], record: Mapping[str, Any]) -> None:
    file.write(json.dumps(finite(record), allow_nan=False) + "\n")
    file.flush()


def _scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)
