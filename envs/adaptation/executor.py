"""The simplest executor: jobs are run here, at once, and remembered by content."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from envs.adaptation.jobs import Score, ScoreJob


class SerialExecutor:
    """Runs each job when it is submitted; the same job is never run twice, unless it leaves weights
    behind: a remembered score would lack them.

    Args:
        scorer: turns a job into a score, e.g. :class:`envs.adaptation.scorer.Scorer`.
    """

    def __init__(self, scorer: Callable[[ScoreJob], Score]) -> None:
        self.scorer = scorer
        self.scores: dict[str, Score] = {}

    def submit(self, job: ScoreJob) -> Future[Score]:
        if job.keep_weights or job.key not in self.scores:
            self.scores[job.key] = self.scorer(job)
        future: Future[Score] = Future()
        future.set_result(self.scores[job.key])
        return future
