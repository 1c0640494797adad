"""Score jobs on worker processes.

Workers are spawned, single-threaded (two processes of one thread beat one of two), and build their
scorer once from a picklable factory. A job that outlives its time limit, or takes its worker down,
is tried once more on a fresh worker: jobs are pure, so trying again is always right.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from envs.adaptation.jobs import Progress, Score, ScoreJob

ScorerFactory = Callable[[Progress, int], Callable[[ScoreJob], Score]]
"""Picklable; called once in each worker with the progress callback and the worker's number."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ATTEMPTS = 2


class JobFailedError(RuntimeError):
    """A score job died or ran out of time on every attempt."""


class _ScorerFailed(Exception):
    """The scorer raised; its worker is ready for the next job."""


class _WorkerLost(Exception):
    """The worker died or was too slow; the job may be tried again."""


class ProcessExecutor:
    """Runs score jobs on ``workers`` spawned processes.

    Args:
        factory: makes the scorer in each worker.
        workers: number of processes.
        timeout: seconds one job may take, loading the model left out; ``None`` for no limit.
        progress: called in this process with the phases reported by any worker.

    Attributes:
        workers: number of processes.
    """

    def __init__(
        self,
        factory: ScorerFactory,
        workers: int,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; at least one worker process is needed.")
        self.workers = workers
        self._jobs: queue.SimpleQueue[tuple[ScoreJob, Future[Score]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._serve, args=(factory, number, timeout, progress), daemon=True
            )
            for number in range(workers)
        ]
        self._workers: set[_Worker] = set()
        self._aborted = False
        for thread in self._threads:
            thread.start()

    def submit(self, job: ScoreJob) -> Future[Score]:
        """Queue a job; its future holds the score, or the error the scorer raised."""
        future: Future[Score] = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Stop the workers: when all that was submitted is done, or at once in an emergency.

        An exception on its way out (Ctrl-C, a failed job) is the emergency: nobody will read the
        scores of what still runs.
        """
        if sys.exc_info()[0] is not None:
            self._aborted = True
            for worker in list(self._workers):
                worker.kill()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve(
        self,
        factory: ScorerFactory,
        number: int,
        timeout: float | None,
        progress: Progress | None,
    ) -> None:
        """One thread per worker: feeds it jobs and replaces it when it is lost."""
        worker: _Worker | None = None
        while (item := self._jobs.get()) is not None:
            job, future = item
            if self._aborted:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            for attempt in range(ATTEMPTS):
                try:
                    worker = worker or self._start(factory, number)
                except Exception as error:  # no memory for a process, say
                    future.set_exception(error)
                    break
                last = attempt + 1 == ATTEMPTS
                if not self._try(worker, job, future, timeout, progress, last):
                    self._workers.discard(worker)
                    worker = None
                if future.done():
                    break
        if worker is not None:
            worker.stop()

    def _start(self, factory: ScorerFactory, number: int) -> _Worker:
        worker = _Worker(factory, number)
        self._workers.add(worker)
        if self._aborted:  # while it was starting
            worker.kill()
        return worker

    def _try(
        self,
        worker: _Worker,
        job: ScoreJob,
        future: Future[Score],
        timeout: float | None,
        progress: Progress | None,
        last: bool,
    ) -> bool:
        """Whether the worker can go on; the job is not done where it is to be tried again."""
        try:
            future.set_result(worker.run(job, timeout, progress))
        except _ScorerFailed as failed:
            future.set_exception(failed.args[0])
        except _WorkerLost as lost:
            worker.stop()
            if last or self._aborted:
                future.set_exception(JobFailedError(f"Score job {job.key[:12]}: {lost}"))
            return False
        except BaseException as error:
            # Raised here, by the progress callback say: what the worker has still to tell of this
            # job must not be taken for the next one's.
            worker.kill()
            worker.stop()
            future.set_exception(error)
            return False
        return True


class _Worker:
    """One spawned process and the pipe to it."""

    def __init__(self, factory: ScorerFactory, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, factory, number), daemon=True)
        with _single_threaded():
            self._process.start()
        theirs.close()

    def run(self, job: ScoreJob, timeout: float | None, progress: Progress | None) -> Score:
        """Score a job; the time limit counts from when the worker has its model."""
        with _died_if_closed():
            self._pipe.send(job)
        deadline = math.inf
        while True:
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            kind, value = self._receive(left)
            if kind == "begun":
                deadline = math.inf if timeout is None else time.monotonic() + timeout
                continue
            if kind == "score":
                return value
            if kind == "error":
                raise _ScorerFailed(value)
            if kind == "late":
                raise _WorkerLost(f"it took more than its {timeout:g} s; --job-timeout gives more.")
            if progress is not None:
                progress(*value)

    def _receive(self, seconds: float | None) -> Any:
        with _died_if_closed():
            return self._pipe.recv() if self._pipe.poll(seconds) else ("late", None)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(timeout=1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def _died_if_closed() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise _WorkerLost("its worker process died (out of memory?).") from error


_environment = threading.Lock()


class _single_threaded:
    """Environment in which a spawned process starts its math libraries with one thread."""

    def __enter__(self) -> None:
        _environment.acquire()
        self._before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _environment.release()


def _work(pipe: Connection, factory: ScorerFactory, number: int) -> None:
    """Body of a worker: score jobs until the pipe closes."""
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    scorer = None
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            scorer = scorer or factory(lambda *step: pipe.send(("progress", step)), number)
            pipe.send(("begun", None))
            answer: tuple[str, Any] = ("score", scorer(job))
        except Exception as error:
            answer = ("error", _portable(error))
        try:
            pipe.send(answer)
        except (BrokenPipeError, OSError):
            return


def _portable(error: Exception) -> Exception:
    """The error itself, or its words where it cannot be pickled or not be read back."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
