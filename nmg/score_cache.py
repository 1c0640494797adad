"""Scores remembered by content, in memory and on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envs.adaptation.jobs import Executor, Score, ScoreJob


class CachedExecutor:
    """Remembers the scores of another executor by content key, in memory and in a folder.

    Jobs that leave weights behind are always run: a remembered score would lack the weights.
    A score that cannot be written stops whoever submits: futures swallow what their callbacks
    raise, and hours of jobs would go by of which nothing is kept.

    Args:
        executor: runs what is not remembered.
        folder: one small JSON file per score; ``None`` remembers in memory only.
        done: called when a job ends; with True, if its score was remembered.

    Attributes:
        jobs: submitted so far.
        hits: of these, remembered.
    """

    def __init__(
        self,
        executor: Executor,
        folder: Path | None = None,
        done: Callable[[bool], None] | None = None,
    ) -> None:
        self._executor = executor
        self._folder = folder
        self._done = done or (lambda remembered: None)
        self._known: dict[str, Future[Score]] = {}
        self._unwritten: OSError | None = None
        self.jobs = self.hits = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def submit(self, job: ScoreJob) -> Future[Score]:
        """Run a job, or recall its score.

        Raises:
            OSError: if a score of a job before it could not be written.
        """
        self.check_written()
        self.jobs += 1
        known = None if job.keep_weights else self._recall(job.key)
        self.hits += known is not None
        remembered = known is not None and known.done()
        future = known or (self._executor.submit(job) if job.keep_weights else self._run(job))
        future.add_done_callback(lambda _: self._done(remembered))
        return future

    def check_written(self) -> None:
        """See to it that all scores so far were written; also to be called after the last job.

        Raises:
            OSError: if one could not be.
        """
        error, self._unwritten = self._unwritten, None
        if error is not None:
            raise error

    @property
    def holds_scores(self) -> bool:
        """Whether any score is in the folder."""
        return self._folder is not None and any(self._folder.glob("*.json"))

    def remembers(self, job: ScoreJob) -> bool:
        """Whether nothing would have to be run for its score."""
        return not job.keep_weights and self._recall(job.key) is not None

    def foresee(self, job: ScoreJob) -> None:
        """Start a job that will be submitted later, if it does not hold up what comes before.

        Off-policy agents need not wait for it, and three jobs of an episode on two workers would
        leave one of them idle a quarter of the time.
        """
        if getattr(self._executor, "workers", 1) > 1 and self._recall(job.key) is None:
            self._run(job)

    def _run(self, job: ScoreJob) -> Future[Score]:
        key = job.key  # the callback stays with the future: it must not hold the job
        future = self._known[key] = self._executor.submit(job)
        future.add_done_callback(lambda done: self._write(key, done))
        return future

    def _recall(self, key: str) -> Future[Score] | None:
        future = self._known.get(key) or self._read(key)
        if future is not None:
            self._known[key] = future
        return future

    def _read(self, key: str) -> Future[Score] | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            score = score_from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            return None  # damaged: it is computed again
        future: Future[Score] = Future()
        future.set_result(score)
        return future

    def _write(self, key: str, done: Future[Score]) -> None:
        path = self._path(key)
        if done.cancelled() or done.exception() is not None:
            self._known.pop(key, None)
        elif path is not None:
            part = path.with_suffix(f".{os.getpid()}.part")
            try:
                part.write_text(json.dumps(asdict(done.result())), encoding="utf-8")
                part.replace(path)
            except OSError as error:
                with suppress(OSError):
                    part.unlink()
                self._unwritten = error

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{key}.json"


def score_from_json(values: Mapping[str, Any]) -> Score:
    """A score as it was written; JSON keeps floats to the last bit."""
    return Score(
        metrics=values["metrics"],
        per_seed=tuple(values["per_seed"]),
        cost=values["cost"],
        pretrain_loss=tuple(values["pretrain_loss"]),
    )
