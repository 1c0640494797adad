"""``nmg noise``: how often the sign of a reward is wrong, before a budget is spent on it."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmg.comparison import ComparisonTable, tabulate
from nmg.comparison_text import as_text
from nmg.config import TrainingConfig
from nmg.config_files import training_file
from nmg.limits import refuse_idle, refuse_idle_reference
from nmg.options import add_flags, given_flags
from nmg.resolution import resolve_training
from nmg.statistics import false_alarm_rate, seeds_needed

EXAMPLES = """examples:
  nmg noise                                             the testbed
  nmg noise --task classification --dataset chemprot --model minilm --deals 4 --repeats 4
  nmg noise --dataset easy --strategy none idf common --deals 8     is there anything to learn?
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``noise`` on the command line."""
    parser = subparsers.add_parser(
        "noise",
        help="measure the noise of the reward",
        description="Score pairs of random maskings several times, each time with other training "
        "seeds, and see how much of a difference is due to the masks; or compare fixed strategies "
        "with random masks. All on training data; the settings are those of nmg train.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    size = parser.add_argument_group("how much is measured")
    size.add_argument("--deals", type=int, default=6, help="pairs of maskings (default: 6)")
    size.add_argument("--repeats", type=int, default=5, help="scores of each (default: 5)")
    size.add_argument(
        "--strategy",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="instead, compare these with random masks, once on each deal",
    )
    add_flags(parser, TrainingConfig)
    parser.set_defaults(run=run)


RIGHT = 0.9
"""How often the sign of a difference is to be right."""


@dataclass(frozen=True)
class Noise:
    """What is known of the reward of one metric.

    Attributes:
        seeds: standard deviation of a difference over training seeds, the masks being fixed.
        masks: standard deviation of the true difference of two random maskings, with the part
            that is noise taken off; 0 if nothing is left.
        wrong_sign: how often a single difference has another sign than the mean of its repeats
            (that one left out); ties count half.
    """

    seeds: float
    masks: float
    wrong_sign: float


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from agents.strategies import strategy_key
    from envs.models.runtime import tune_runtime
    from nmg.assembly import open_executor, training_setup
    from nmg.evaluation import seed_of
    from nmg.forecast import forecast_run
    from nmg.progress import ProgressBar

    if args.deals < 2 or (args.repeats < 2 and not args.strategy):
        raise ValueError(
            f"--deals is {args.deals} and --repeats {args.repeats}; noise needs at least 2 of both."
        )
    flags = given_flags(TrainingConfig, args)
    config = resolve_training(flags, args.preset, training_file(args.config))
    refuse_idle(config.data.task, flags)
    refuse_idle_reference(flags.get("reference"), args.strategy)
    for name in args.strategy:
        strategy_key(name)  # a wrong one is told at once
    tune_runtime(threads=1)  # results must not depend on the machine's cores
    on = training_setup(config.data, config.episode)
    if on.about:
        print(on.about)
    if args.strategy and on.fragments:
        raise ValueError("--strategy masks words; for fragments see nmg generation --placement.")
    jobs = args.deals * (1 + len(args.strategy)) if args.strategy else 2 * args.deals * args.repeats
    deal = on.world.deal(seed_of(config.run.seed, "noise", 0))
    predicted = forecast_run(config, on, deal, jobs)
    print(predicted, flush=True)
    started = time.perf_counter()
    with (
        ProgressBar(jobs, "score job") as bar,
        open_executor(on, config.data, bar=bar) as executor,
    ):
        if args.strategy:
            found = as_text(effects(config, on, executor, args.deals, args.strategy))
        else:
            # The clock would count the start of the workers, too, and what they share.
            pair = 2 * predicted.each
            found = noise_text(config, on, executor, args.deals, args.repeats, pair)
    print("\n" + found)
    print("\n" + predicted.against(time.perf_counter() - started))
    return 0


def noise_text(
    config: TrainingConfig, on: Any, executor: Any, deals: int, repeats: int, pair: float
) -> str:
    """What is to be said of the noise of every metric; a pair of jobs takes ``pair`` seconds."""
    differences = measure(config, on, executor, deals, repeats)
    better = on.task.higher_is_better
    parts = [
        describe(metric, values_DR, better[metric], pair)
        for metric, values_DR in differences.items()
    ]
    return "\n\n".join([f"A pair of score jobs takes about {pair:.3g} s by itself.", *parts])


def effects(
    config: TrainingConfig, on: Any, executor: Any, deals: int, strategies: Sequence[str]
) -> ComparisonTable:
    """Fixed strategies against random masks, on training data: what a policy could learn."""
    from nmg.evaluation import evaluate, seed_of
    from nmg.maskings import strategy

    dealt = [on.world.deal(seed_of(config.run.seed, "noise", number)) for number in range(deals)]
    contexts = [context for deal in dealt for context in deal.contexts]
    maskings = {"random": on.random}
    maskings |= {name: strategy(name, on, contexts) for name in strategies}
    scores = evaluate(
        on.world,
        dealt,
        maskings,
        executor,
        budget=config.episode.budget,
        settings=config.adaptation,
        run=config.run.seed,
    )
    headline = on.task.headline
    better = on.task.higher_is_better[headline]
    return tabulate(scores, headline=headline, higher_is_better=better, unit="deals")


def measure(
    config: TrainingConfig, on: Any, executor: Any, deals: int, repeats: int
) -> Mapping[str, np.ndarray]:
    """Differences of pairs of random maskings: metric -> (deals, repeats)."""
    from dataclasses import replace

    from nmg.evaluation import masking_job, seed_of

    running = []
    for number in range(deals):
        deal = on.world.deal(seed_of(config.run.seed, "noise", number))
        pair = [
            masking_job(
                on.world,
                deal,
                on.random,
                name=name,
                budget=config.episode.budget,
                settings=config.adaptation,
                run=config.run.seed,
                number=number,
            )
            for name in ("one", "other")
        ]
        for repeat in range(repeats):
            seed = int(seed_of(config.run.seed, f"noise/{number}", repeat).generate_state(1)[0])
            running.append([executor.submit(replace(job, seed=seed)) for job in pair])
    scores = [(one.result().metrics, other.result().metrics) for one, other in running]
    return {
        metric: np.array([a[metric] - b[metric] for a, b in scores]).reshape(deals, repeats)
        for metric in scores[0][0]
    }


def noise_of(differences_DR: np.ndarray) -> Noise:
    """Separate what the seeds do from what the masks do (one-way random effects)."""
    repeats = differences_DR.shape[1]
    within = float(differences_DR.var(axis=1, ddof=1).mean())
    between = float(differences_DR.mean(axis=1).var(ddof=1)) - within / repeats
    others_DR = differences_DR.sum(axis=1, keepdims=True) - differences_DR
    agreement_DR = np.sign(others_DR) * np.sign(differences_DR)
    return Noise(within**0.5, max(0.0, between) ** 0.5, float((1 - agreement_DR).mean() / 2))


def seeds_for_sign(noise: Noise) -> int | None:
    """Pairs of one deal, of other training seeds each, whose mean has the right sign `RIGHT` often.

    True differences and errors are taken for normal: with t the ratio of their deviations, signs
    agree with probability 1/2 + arctan(t) / pi (Sheppard 1899).

    Returns:
        ``None`` if masks were not seen to differ: then no number of seeds helps.
    """
    if not noise.masks:
        return None
    return max(1, math.ceil((math.tan(math.pi * (RIGHT - 0.5)) * noise.seeds / noise.masks) ** 2))


def describe(metric: str, differences_DR: np.ndarray, higher_is_better: bool, pair: float) -> str:
    """A few lines on one metric; a pair of jobs takes ``pair`` seconds."""
    noise = noise_of(differences_DR)
    lines = [
        f"{metric} ({'higher' if higher_is_better else 'lower'} is better)",
        f"  difference of two random maskings: sd {noise.seeds:.4g} over training seeds, "
        f"sd {noise.masks:.4g} over masks",
        f"  the sign of one reward is wrong {100 * noise.wrong_sign:.0f}% of the time "
        "(50% is no information)",
        f"  for a sign that is right nine times in ten: {_cost(seeds_for_sign(noise), pair)}",
    ]
    total = float(np.hypot(noise.seeds, noise.masks))
    if total:
        effects = ", ".join(
            f"{effect:.3g}: {seeds_needed(total, effect)}"
            for effect in (total / 2, total, 2 * total)
        )
        alarms = false_alarm_rate(differences_DR[:, 0].tolist(), pairs=5)
        lines += [
            f"  seeds needed to detect an effect of size (80% power): {effects}",
            f"  random against random with 5 seeds is called different {100 * alarms:.1f}% "
            "of the time",
        ]
    return "\n".join(lines)


def _cost(seeds: int | None, pair: float) -> str:
    if seeds is None:
        return "no number of seeds; between these masks no difference was seen"
    return f"the mean of {seeds} training seed{'s' * (seeds > 1)}, {seeds * pair:.3g} s"
