"""A bar that moves while a score job runs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from envs.adaptation.jobs import Progress
from nmg.forecast import duration

QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal to draw a bar on."""


class ProgressBar:
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

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

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
    bar: ProgressBar | None = None

    def progress(phase: str, step: int, steps: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(steps, "step")
        bar.unit_done(phase)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
