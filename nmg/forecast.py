"""What a command will cost, before it starts: jobs, tokens, and a time from a short probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.adaptation.jobs import AdaptationSettings, Progress, ScoreJob
from nmg.evaluation import Masking, Rehearsed, masking_job

if TYPE_CHECKING:
    from envs.adaptation.scorer import Scorer
    from envs.world import Deal, World
    from nmg.assembly import Setup
    from nmg.config import TrainingConfig
    from nmg.score_cache import CachedExecutor

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


@dataclass(frozen=True)
class Forecast:
    """Predicted cost of a number of like jobs, or of the steps of one training.

    Attributes:
        jobs: how many.
        tokens: of all of them, by phase.
        seconds: predicted wall time on ``workers`` processes.
        workers: processes that share the jobs.
        unit: what they are called.
    """

    jobs: int
    tokens: Mapping[str, int]
    seconds: float
    workers: int = 1
    unit: str = "score job"

    def __str__(self) -> str:
        if not self.jobs:
            return "Forecast: nothing is left to compute; all scores are remembered."
        parts = ", ".join(f"{amount(n)} {phase}" for phase, n in self.tokens.items() if n)
        where = f" on {self.workers} workers" if self.workers > 1 else ""
        return (
            f"Forecast: {self.jobs:,} {self.unit}{'s' * (self.jobs != 1)}, "
            f"{amount(sum(self.tokens.values()))} tokens ({parts}), "
            f"about {duration(self.seconds)}{where}."
        )

    def __add__(self, other: Forecast) -> Forecast:
        """Of both, one after the other."""
        tokens = {phase: n + other.tokens.get(phase, 0) for phase, n in self.tokens.items()}
        seconds = self.seconds + other.seconds
        return replace(self, jobs=self.jobs + other.jobs, tokens=tokens, seconds=seconds)

    @property
    def each(self) -> float:
        """Predicted seconds of a job by itself."""
        return self.seconds * _at_once(self.workers) / self.jobs

    def against(self, seconds: float) -> str:
        """A line that compares the forecast with what it took."""
        return f"Took {duration(seconds)}; forecast {duration(self.seconds)}."


def forecast(
    jobs: Mapping[str, tuple[int, ScoreJob]], rates: Mapping[str, float], workers: int = 1
) -> Forecast:
    """Predict the cost of jobs from examples of them.

    Args:
        jobs: kind -> (how many, one of the kind).
        rates: tokens a second by phase, from `probe`.
        workers: processes that share the jobs.
    """
    tokens = dict.fromkeys(PHASES, 0)
    for count, job in jobs.values():
        for phase, number in job_tokens(job).items():
            tokens[phase] += count * number
    seconds = sum(number / rates[phase] for phase, number in tokens.items() if number)
    count = sum(number for number, _ in jobs.values())
    return Forecast(count, tokens, seconds / _at_once(workers), workers)


def _at_once(workers: int) -> int:
    """Jobs that are computed at the same time."""
    from nmg.assembly import core_count

    return min(workers, core_count())


def forecast_maskings(
    setup: Setup,
    deal: Deal,
    count: int,
    *,
    budget: float,
    settings: AdaptationSettings,
    run: int,
    workers: int,
) -> Forecast:
    """Predict the cost of ``count`` jobs like that of random masks on a deal; none are free."""
    if not count:
        return Forecast(0, {}, 0.0, workers)
    job = masking_job(
        setup.world,
        deal,
        setup.random,
        name="random",
        budget=budget,
        settings=settings,
        run=run,
        number=0,
    )
    return forecast({"masking": (count, job)}, probe(setup.scorer, job), workers)


def jobs_left(
    world: World,
    deals: Mapping[tuple[int, int], Deal],
    maskings: Mapping[str, Masking],
    executor: CachedExecutor,
    *,
    budget: float,
    settings: AdaptationSettings,
) -> int:
    """How many scores are not remembered; those of maskings that learn on the way all count.

    Args:
        world: of the deals.
        deals: by the seed of the comparison and the number of the deal in it, see `masking_job`.
        maskings: name -> policy or ``None``.
        executor: remembers scores.
        budget: see `masking_job`, as ``settings``.
        settings: of the jobs.
    """
    if not executor.holds_scores:
        return len(maskings) * len(deals)
    return sum(
        isinstance(masking, Rehearsed)
        or not executor.remembers(
            masking_job(
                world,
                deal,
                masking,
                name=name,
                budget=budget,
                settings=settings,
                run=run,
                number=number,
            )
        )
        for (run, number), deal in deals.items()
        for name, masking in maskings.items()
    )


def forecast_run(config: TrainingConfig, setup: Setup, deal: Deal, count: int) -> Forecast:
    """The same with the settings of a run."""
    from nmg.assembly import worker_count

    return forecast_maskings(
        setup,
        deal,
        count,
        budget=config.episode.budget,
        settings=config.adaptation,
        run=config.run.seed,
        workers=worker_count(config.data),
    )


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


def amount(number: float) -> str:
    """``12.3 M``."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
