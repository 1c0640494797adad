"""Worker processes: same scores as here, errors and deaths reported, nothing computed twice."""

import errno
import gc
import os
import pickle
import signal
import time
import weakref
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from envs.adaptation.jobs import AdaptationSettings, Score, ScoreJob
from envs.text.corpus import Context
from nmg.executors import JobFailedError, ProcessExecutor, _work
from nmg.score_cache import CachedExecutor


def job(seed: int, **more) -> ScoreJob:
    ids = np.arange(5, dtype=np.int32)
    context = Context(ids, ids, np.ones(5, bool))
    return ScoreJob([context], [ids > 2], [], [], AdaptationSettings(), seed, **more)


def score(job: ScoreJob) -> Score:
    return Score({"f1": job.seed + 0.1}, [{"f1": job.seed + 0.1}], {"steps": 1}, [2.0])


def plain_factory(progress, number):
    def scorer(job):
        progress("pretrain", 1, 1)
        if job.seed == 13:
            raise ValueError("seed 13 is unlucky")
        return score(job)

    return scorer


class Fragile:
    """Loses its worker on the first attempt at a job (seed 3: on every one) and leaves a mark."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, progress, number):
        def scorer(job):
            mark = self.folder / str(job.seed)
            if job.seed == 3 or not mark.exists():
                mark.touch()
                time.sleep(60) if job.seed == 2 else os._exit(1)
            return score(job)

        return scorer


def test_workers_score_report_progress_and_hand_over_errors():
    phases = []
    with ProcessExecutor(plain_factory, 1, progress=lambda *step: phases.append(step)) as pool:
        futures = [pool.submit(job(seed)) for seed in (1, 13, 2)]
        assert futures[0].result(60).metrics == {"f1": 1.1}
        assert futures[2].result(60).metrics == {"f1": 2.1}
        with pytest.raises(ValueError, match="unlucky"):
            futures[1].result(60)
    assert phases == [("pretrain", 1, 1)] * 3


def test_what_a_job_had_still_to_tell_is_not_taken_for_the_next_ones_score():
    calls = []

    def breaks_once(*step):
        calls.append(step)
        if len(calls) == 1:
            raise OSError("the terminal is gone")

    with ProcessExecutor(plain_factory, 1, progress=breaks_once) as pool:
        futures = [pool.submit(job(seed)) for seed in range(4)]
        with pytest.raises(OSError, match="terminal"):
            futures[0].result(60)
        assert [future.result(60).metrics["f1"] for future in futures[1:]] == [1.1, 2.1, 3.1]


def test_a_finished_job_is_not_kept_in_memory():
    class Later:
        def __init__(self):
            self.futures = []

        def submit(self, job):
            self.futures.append(Future())
            return self.futures[-1]

    later = Later()
    cached, one = CachedExecutor(later), job(1)
    cached.submit(one)
    later.futures[0].set_result(score(one))
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_a_lost_worker_is_replaced_and_the_job_tried_again(tmp_path):
    with ProcessExecutor(Fragile(tmp_path), 1, timeout=1.0) as pool:
        dies_once, hangs_once, always_dies = (pool.submit(job(seed)) for seed in (1, 2, 3))
        assert dies_once.result(60).metrics == {"f1": 1.1}
        assert hangs_once.result(60).metrics == {"f1": 2.1}
        with pytest.raises(JobFailedError, match="worker process died"):
            always_dies.result(60)


def slow_to_load(progress, number):
    time.sleep(1.5)
    return score


def test_the_time_limit_is_for_a_job_and_not_for_loading_the_model():
    with ProcessExecutor(slow_to_load, 1, timeout=1.0) as pool:
        assert pool.submit(job(1)).result(60).metrics == {"f1": 1.1}


def test_a_worker_that_cannot_be_started_is_said():
    with ProcessExecutor(lambda progress, number: score, 1) as pool:  # cannot be pickled
        assert "pickle" in str(pool.submit(job(1)).exception(60))


class Counting:
    def __init__(self):
        self.runs = 0

    def submit(self, job):
        self.runs += 1
        future = Future()
        if job.seed == 13:
            future.set_exception(ValueError("unlucky"))
        else:
            future.set_result(score(job))
        return future


def test_scores_are_remembered_in_memory_and_on_disk(tmp_path):
    counting = Counting()
    first = CachedExecutor(counting, tmp_path)
    wanted = first.submit(job(1)).result()
    assert first.submit(job(1)).result() == wanted
    again = CachedExecutor(counting, tmp_path)
    remembered = again.submit(job(1)).result()
    assert dict(remembered.metrics) == dict(wanted.metrics)
    assert dict(remembered.cost) == dict(wanted.cost)
    assert counting.runs == 1
    assert again.hits == 1


def test_foreseen_jobs_run_once_and_only_beside_others(tmp_path):
    alone, pair = Counting(), Counting()
    pair.workers = 2
    for inner in (alone, pair):
        executor = CachedExecutor(inner)
        executor.foresee(job(1))
        executor.foresee(job(1))
        assert (executor.jobs, executor.hits) == (0, 0)
        assert executor.submit(job(1)).result().metrics == {"f1": 1.1}
        assert executor.hits == (inner is pair)
        assert inner.runs == 1


def test_failures_and_kept_weights_are_not_remembered(tmp_path):
    counting = Counting()
    cached = CachedExecutor(counting, tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="unlucky"):
            cached.submit(job(13)).result()
        cached.submit(job(1, keep_weights=True)).result()
    assert counting.runs == 4
    cached.submit(job(1)).result()
    # That score is remembered, and would lack the weights.
    assert not cached.remembers(job(1, keep_weights=True))
    cached.submit(job(1, keep_weights=True)).result()
    assert counting.runs == 6


@pytest.fixture
def full_disk(monkeypatch):
    """Of each file a byte is written."""
    write_text = Path.write_text

    def full(path, text, **options):
        write_text(path, text[:1], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", full)


def test_a_score_that_cannot_be_written_stops_who_submits_the_next(tmp_path, full_disk):
    counting = Counting()
    cached = CachedExecutor(counting, tmp_path)
    assert cached.submit(job(1)).result().metrics == {"f1": 1.1}
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        cached.submit(job(2))
    assert counting.runs == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_nor_is_the_last_score_lost_in_silence(workers, tmp_path, full_disk, monkeypatch):
    from nmg.assembly import open_executor  # here: workers import this file
    from nmg.config import DataConfig

    def scorer(job):
        return score(job)

    scorer.fingerprint, scorer.progress = "a model's", None
    monkeypatch.setattr("nmg.assembly.ScorerFactory", lambda *_: plain_factory)
    on = SimpleNamespace(scorer=scorer, task=None)
    with (
        pytest.raises(OSError, match="No space left"),
        open_executor(on, DataConfig(workers=workers), cache=tmp_path) as executor,
    ):
        future = executor.submit(job(1))
    assert future.result().metrics == {"f1": 1.1}


def test_an_exception_stops_the_workers_at_once(tmp_path):
    """Ctrl-C must not wait for a score job, which may take an hour."""

    def interrupted() -> list[Future[Score]]:
        with ProcessExecutor(Fragile(tmp_path), 1) as pool:
            futures.extend(pool.submit(job(seed)) for seed in (2, 5))
            while not (tmp_path / "2").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt
        return futures

    futures: list[Future[Score]] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(JobFailedError):
        futures[0].result(0)
    assert futures[1].cancelled()


class Unreadable(Exception):
    """Pickled by its message alone, which does not make it again."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


class Listening:
    """A worker's end of the pipe: one job, then the end."""

    def __init__(self):
        self.jobs, self.said = [job(1)], []

    def recv(self):
        if not self.jobs:
            raise EOFError
        return self.jobs.pop()

    def send(self, answer):
        self.said.append(pickle.loads(pickle.dumps(answer)))


def test_errors_that_no_pipe_can_carry_are_told_in_words():
    unpicklable = ValueError("a closure:", lambda: None)
    for raised in (Unreadable(7, "no such shelf"), unpicklable):

        def factory(progress, number, raised=raised):
            raise raised

        pipe = Listening()
        before = signal.getsignal(signal.SIGINT)
        try:
            _work(pipe, factory, 0)
        finally:
            signal.signal(signal.SIGINT, before)
        ((kind, error),) = pipe.said
        assert kind == "error"
        assert str(error) == f"{type(raised).__name__}: {raised}"
