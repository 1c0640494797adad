"""How fast score jobs go here: their tokens, and seconds of trials cut short."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.adaptation.jobs import AdaptationSettings, Progress, ScoreJob

if TYPE_CHECKING:
    from envs.adaptation.scorer import Scorer

PHASES = {
    "further pre-training": "pretrain_tokens",
    "fine-tuning": "finetune_tokens",
    "evaluation": "eval_tokens",
}
"""Phase, as the scorer reports it -> its entry in the cost of a score."""
GENERATION = {"pre-training": "further pre-training", "generation": "evaluation"}
"""Phases that the scorer of generation calls otherwise."""
Trial = Callable[[int, Progress], None]
"""Trains about so many steps and leaves nothing changed."""


def job_tokens(job: ScoreJob) -> dict[str, int]:
    """Tokens of a job by phase, as its score will count them."""
    settings = job.settings
    pairs = bool(_written(job.score))
    masked = [] if job.masks is None else zip(job.contexts, job.masks, strict=True)
    # A decoder reads as far as the last token that it is to predict.
    pretrain = sum(
        len(context) + pairs * (int(np.flatnonzero(mask)[-1]) + 1)
        for context, mask in masked
        if mask.any()
    )
    train = sum(map(len, job.train)) + _written(job.train)
    score = sum(map(len, job.score)) + _written(job.score)
    seeds = settings.finetune_seeds
    return {
        "further pre-training": settings.pretrain_epochs * pretrain,
        "fine-tuning": seeds * settings.finetune_epochs * train,
        "evaluation": seeds * score,
    }


def _written(features: Sequence[Any]) -> int:
    """Tokens of the targets, where features are pairs of source and target."""
    return sum(len(feature.target_ids) for feature in features if hasattr(feature, "target_ids"))


def probe(scorer: Scorer, job: ScoreJob, seconds: float = 5.0) -> dict[str, float]:
    """Measure tokens a second by phase on cut-down copies of a job.

    Args:
        scorer: left as it was.
        job: one of the jobs to come; must have masks.
        seconds: about how long to measure; a first, uncounted run warms up. A job that fits in
            this time is run whole.
    """
    _timed(scorer, _cut(job, 1))
    size, started = 2, time.perf_counter()
    while True:
        tried, (times, cost) = size, _timed(scorer, _cut(job, size))
        rates = {phase: cost[PHASES[phase]] / max(spent, 1e-6) for phase, spent in times.items()}
        whole = sum(n / rates[phase] for phase, n in job_tokens(job).items() if rates[phase])
        left = seconds - (time.perf_counter() - started)
        if whole < left:
            # Small jobs have costs of their own that a cut one gets wrong: take a whole one.
            times, cost = _timed(scorer, job)
            return {p: cost[PHASES[p]] / max(spent, 1e-6) for p, spent in times.items()}
        size *= 2
        if left < sum(times.values()) * 2 or tried * job.settings.pretrain_batch > len(
            job.contexts
        ):
            return rates


def _cut(job: ScoreJob, steps: int) -> ScoreJob:
    settings: AdaptationSettings = replace(
        job.settings, pretrain_epochs=1, finetune_epochs=1, finetune_seeds=1
    )
    contexts, examples = steps * settings.pretrain_batch, steps * settings.finetune_batch
    # A context without a mask takes no time, and would leave further pre-training without a rate.
    masked = [i for i, mask in enumerate(job.masks or ()) if mask.any()][:contexts]
    return ScoreJob(
        [job.contexts[i] for i in masked],
        job.masks and [job.masks[i] for i in masked],
        job.train[:examples],
        job.score[:examples],
        settings,
        job.seed + steps,  # a scorer may know the pre-training of the job before this one
    )


def _timed(scorer: Scorer, job: ScoreJob) -> tuple[dict[str, float], Mapping[str, int]]:
    spent = dict.fromkeys(PHASES, 0.0)
    last = time.perf_counter()

    def clock(phase: str, step: int, steps: int) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[GENERATION.get(phase, phase)] += now - last
        last = now

    before: Callable[[str, int, int], None] = scorer.progress
    scorer.progress = clock
    try:
        cost = scorer(job).cost
    finally:
        scorer.progress = before
    return spent, cost


def seconds_a_step(trial: Trial, most: int, seconds: float = 2.5) -> float:
    """Measured on trials of more and more steps, the first of each left out.

    Args:
        trial: runs the steps.
        most: steps that there are.
        seconds: a trial of this length is long enough.
    """
    steps = 2
    while True:
        ends: list[float] = []
        started = time.perf_counter()
        trial(min(steps, most), lambda *_: ends.append(time.perf_counter()))  # noqa: B023
        if len(ends) < 2:
            return time.perf_counter() - started
        spent = (ends[-1] - ends[0]) / (len(ends) - 1)
        if steps >= most or ends[-1] - started > seconds / 2:
            return spent
        steps *= 2
