"""Each side in a process of its own: nobody's settings or memory are another's."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

from inner_loop_parts.workload import Workload

SIDES = ("plain", "common", "fp32", "bf16")
"""The last two are ours."""
RATE = "rate"
AGENTS = {"plain": "plain, agent", "fp32": "fp32, agent", "bf16": "bf16, agent"}
"""Sides that have an agent, and what does what of an episode is not a score job."""


class Side:
    """A process that holds one side and runs what it is sent, one thing at a time."""

    def __init__(self, name: str, workload: Workload | None, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, name, workload, device), daemon=True
        )
        self._process.start()
        theirs.close()

    def send(self, what: str, value: Any = None) -> None:
        """Start something without waiting for it."""
        self._pipe.send((what, value))

    def receive(self) -> Any:
        """What came of it.

        Raises:
            RuntimeError: if the side failed.
        """
        try:
            kind, value = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError(f"The process of {self.name} died (out of memory?).") from error
        if kind == "error":
            raise RuntimeError(f"{self.name} failed: {value}")
        return value

    def ask(self, what: str, value: Any = None) -> Any:
        """Send, and wait for the answer."""
        self.send(what, value)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()


class Desk:
    """What a side does when it is asked; lives in the side's process."""

    def __init__(self, name: str, workload: Workload | None, device: str) -> None:
        self.name, self.workload, self.device = name, workload, device
        self.side: Any = None

    def answer(self, what: str, value: Any) -> Any:
        """To ``open`` (memory in MB), ``run`` (steps and memory), ``first_loss``, ``rate`` and
        ``agent`` (seconds)."""
        from inner_loop_parts.clock import peak_memory

        if what == "open":
            self.side = _open(self.name, self.workload, self.device)
            return peak_memory(self.device)
        if what == "run":
            return self.side(value).steps, peak_memory(self.device)
        return self.side.first_loss(value) if what == "first_loss" else self.side(value)


def _serve(pipe: Connection, name: str, workload: Workload | None, device: str) -> None:
    import traceback

    import torch

    torch.set_num_threads(1)
    desk = Desk(name, workload, device)
    while True:
        try:
            what, value = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("answer", desk.answer(what, value)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))


def _open(name: str, workload: Workload | None, device: str) -> Any:
    if name == RATE:
        from inner_loop_parts.limit import Rate

        return Rate(device)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    assert workload is not None
    if name in AGENTS.values():
        from inner_loop_parts.episode import OurAgent, PlainAgent

        if name == AGENTS["plain"]:
            return PlainAgent(workload, device)
        return OurAgent(workload, device, "bf16" if name == AGENTS["bf16"] else "fp32")
    if name == "plain":
        from inner_loop_parts.plain import Plain

        return Plain(workload, device)
    if name == "common":
        from inner_loop_parts.common import Common

        return Common(workload, device)
    from inner_loop_parts.ours import Ours

    return Ours(workload, device, "bf16" if name == "bf16" else "fp32")
