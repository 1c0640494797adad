"""What a command will cost, before it starts: jobs, tokens, and a time from a short probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envs.adaptation.jobs import AdaptationSettings, ScoreJob
from nmg.evaluation import Masking, Rehearsed, masking_job
from nmg.probe import PHASES, job_tokens, probe

if TYPE_CHECKING:
    from envs.world import Deal, World
    from nmg.assembly import Setup
    from nmg.config import TrainingConfig
    from nmg.score_cache import CachedExecutor


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
