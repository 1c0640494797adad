"""Seconds of wall and of processor time, step by step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch


class Step(NamedTuple):
    """One batch of a stage, or all that a stage does once."""

    stage: str
    wall: float
    cpu: float
    tokens: int
    """Real tokens; 0 for what is done once."""


class Clock:
    """Notes steps; each lasts from the end of the one before.

    Processor time is that of all threads of this process: on a shared machine it is steadier.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.steps: list[Step] = []
        self.start()

    def start(self) -> None:
        """Do not count what was done since the last step."""
        self._last = self._now()

    def note(self, stage: str, tokens: int = 0) -> None:
        """A step has ended."""
        now = self._now()
        wall, cpu = now[0] - self._last[0], now[1] - self._last[1]
        self.steps.append(Step(stage, wall, cpu, tokens))
        self._last = now

    def _now(self) -> tuple[float, float]:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def peak_memory(device: str) -> float:
    """Largest amount so far in MB: of the GPU where one is used, else of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
