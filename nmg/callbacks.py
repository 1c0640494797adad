"""What is seen while a run goes on: a bar that moves inside an episode, and the run's records."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from envs.adaptation.jobs import Progress
from nmg.forecast import duration
from nmg.run_folders import finite

QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal to draw a bar on."""


class EpisodeBar:
    """Progress over units (episodes, jobs) that moves while a score job runs.

    On a terminal it is a tqdm bar with the phase of the job; elsewhere (a log file) it is a plain
    line every half a minute. It is a `Progress` callback for scorers and executors, whose threads
    may all call it.

    Args:
        total: units to do.
        unit: what one is.
        done: units done before, by the run that is resumed.
        jobs: score jobs of a unit, by which a finished job moves the bar; 0 if a job is a unit.
    """

    def __init__(self, total: int, unit: str, *, done: int = 0, jobs: int = 0) -> None:
        self._total, self._unit, self._jobs = total, unit, jobs
        self._first = self._whole = done
        self._finished_jobs = 0
        self._phase = ""
        self._started = self._spoke = 0.0
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._lock = threading.RLock()

    def __call__(self, phase: str, step: int, steps: int) -> None:
        """A step inside a score job."""
        self._phase = f"{phase} {step}/{steps}"
        self._show()

    def job_done(self, remembered: bool = False) -> None:
        """A score job ended. What was remembered says nothing of how long the others take."""
        if not self._jobs:
            self._first += remembered
            self.unit_done()
            return
        self._finished_jobs = min(self._jobs, self._finished_jobs + 1)
        self._show()

    def unit_done(self, note: str = "") -> None:
        """An episode (or other unit) ended."""
        self._whole += 1
        self._finished_jobs = 0
        self._phase = note
        self._show()

    def begin(self, total: int, unit: str) -> None:
        """Start anew with other units, each of them a job."""
        with self._lock:
            self.close()
            self._total, self._unit, self._jobs = total, unit, 0
            self._first = self._whole = self._finished_jobs = 0
            self._started = 0.0

    def close(self) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def _start(self) -> None:
        """The clock starts at the first news, not when the bar is made."""
        self._started = self._spoke = time.monotonic()
        if self._terminal:
            self._bar = tqdm(
                total=self._total,
                initial=self._first,
                unit=self._unit,
                smoothing=0,
                dynamic_ncols=True,
                bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            )

    def _show(self) -> None:
        with self._lock:
            self._draw()

    def _draw(self) -> None:
        if not self._started:
            self._start()
        at = min(self._total, self._whole + self._finished_jobs / (self._jobs + 1))
        if self._bar is not None:
            self._bar.initial = self._first
            self._bar.set_description_str(f"{self._unit} {self._whole}/{self._total} ", False)
            self._bar.set_postfix_str(self._phase, False)
            self._bar.update(at - self._bar.n)
            return
        now = time.monotonic()
        if now - self._spoke < QUIET_SECONDS:
            return
        self._spoke = now
        speed = (at - self._first) / (now - self._started)
        left = f", {duration((self._total - at) / speed)} left" if speed > 0 else ""
        where = f", {self._phase}" if self._phase else ""
        print(f"{self._unit} {self._whole}/{self._total}{where}{left}", file=sys.stderr, flush=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar over the steps of one long phase, as a `Progress` callback."""
    bar: EpisodeBar | None = None

    def progress(phase: str, step: int, steps: int) -> None:
        nonlocal bar
        bar = bar or EpisodeBar(steps, "step")
        bar.unit_done(phase)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


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
