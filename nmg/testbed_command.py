"""``nmg testbed``: a look at the world with a known best mask, and what masks are worth there."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmg.comparison import AGAIN, RANDOM
from nmg.options import user_path

if TYPE_CHECKING:
    from envs.adaptation.jobs import Executor

EXAMPLES = """examples:
  nmg testbed                              a few documents, their informative words in colour
  nmg testbed --seeds 10                   what none, random, idf, worst and best mask score, and
                                           the response to the share of informative tokens
  nmg testbed --seeds 10 --setting matched --output testbed/
                                           the same where no fixed rule helps, drawn as a plot
  nmg testbed --calibrate 200              how often random masking is called different from itself
"""
SHARES = tuple(step / 6 for step in range(7))
Scores = Mapping[str, Sequence[Mapping[str, float]]]


def add_parser(subparsers: Any) -> None:
    """Mount ``testbed`` on the command line."""
    parser = subparsers.add_parser(
        "testbed",
        help="show the world with a known best mask",
        description="Show documents of the generated world and the tokens worth masking; with "
        "--seeds, score fixed maskings in it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--setting",
        "--dataset",
        default="standard",
        metavar="NAME",
        help="easy, standard, sparse, matched (hard) or small (default: standard)",
    )
    parser.add_argument(
        "--family", default="train", help="train, or test: other new words (default: train)"
    )
    parser.add_argument("--documents", type=int, default=4, help="to show (default: 4)")
    parser.add_argument("--seeds", type=int, default=0, help="domains to score in (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the domain shown (default: 0)")
    parser.add_argument(
        "--calibrate", type=int, default=0, metavar="N", help="comparisons of random with random"
    )
    parser.add_argument("--pairs", type=int, default=5, help="domains of each of them (default: 5)")
    parser.add_argument(
        "--output", type=user_path, help="folder for response.png and response.svg (extra: plots)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the documents, then the scores and the curve."""
    _check(args)
    from envs.models.runtime import tune_runtime
    from envs.testbed import build_testbed
    from nmg.evaluation import evaluate, seed_of
    from nmg.resolution import setting_name

    tune_runtime(threads=1)  # results must not depend on the machine's cores
    bed = build_testbed(setting_name(args.setting), family=args.family)
    deal = bed.world.deal(seed_of(args.seed, "shown", 0))
    if args.calibrate:
        from nmg.testbed_calibration import MASKINGS, calibrate

        jobs = args.calibrate * args.pairs * len(MASKINGS)
        with _scoring(bed, deal, jobs) as executor:
            found = calibrate(bed, executor, args.calibrate, args.pairs, args.seed)
        print(found)
        return 0
    print(
        f"An episode: {len(deal.contexts)} documents to mask, {len(deal.train)} labelled ones to "
        f"fine-tune on, {len(deal.score)} to score on.\n"
    )
    shown = list(zip(deal.contexts, deal.informative or (), strict=True))[: args.documents]
    for context, best in shown:
        print("  " + _shown(context, best, bed.world.tokenizer))
    if not args.seeds:
        return 0
    print()
    deals = [bed.world.deal(seed_of(args.seed, "shown", number)) for number in range(args.seeds)]
    maskings = _maskings(bed.world, deals)
    with _scoring(bed, deal, jobs := len(maskings) * len(deals)) as executor:
        started = time.process_time()
        scores = evaluate(
            bed.world,
            deals,
            maskings,
            executor,
            budget=bed.budget,
            settings=bed.settings,
            run=args.seed,
        )
        spent = time.process_time() - started
    print("\n" + _table(scores))
    print("\n" + _noise(scores))
    print("\n" + _curve_text(scores))
    print(f"\n{spent / jobs:.2f} s a score on one core.")
    if args.output is not None:
        for path in draw(scores, args.setting, args.output):
            print(f"Drawn: {path}")
    return 0


def _check(args: argparse.Namespace) -> None:
    from envs.folders import check_writable

    if args.seeds < 0 or args.documents < 0:
        raise ValueError("--seeds and --documents count domains and documents; give 0 or more.")
    if args.seed < 0:
        raise ValueError(f"seed is {args.seed}; it must be 0 or more.")
    if args.calibrate < 0 or args.pairs < 2:
        raise ValueError("--calibrate counts comparisons (0 or more), --pairs domains (2 or more).")
    if args.calibrate and args.seeds:
        raise ValueError(
            f"--calibrate is {args.calibrate} and --seeds {args.seeds}; they are two measurements, "
            "give one of them (--pairs says how many domains a comparison has)."
        )
    if args.output is None:
        return
    check_writable(args.output)
    if args.seeds < 2:
        raise ValueError("--output draws scores with their intervals; give --seeds 2 or more.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("--output needs matplotlib: pip install 'nmg[plots]'.") from error


def _shown(context: Any, best: Any, tokenizer: Any) -> str:
    from envs.rendering import painted, use_colour

    words, spans, at = [], [], 0
    for token, informative in zip(context.input_ids, best, strict=True):
        word = tokenizer.decode([int(token)])
        if informative:
            spans.append((at, at + len(word)))
        words.append(word)
        at += len(word) + 1
    return painted(" ".join(words), spans, use_colour(sys.stdout))


def _maskings(world: Any, deals: Sequence[Any]) -> dict[str, Any]:
    from agents.strategies import make_strategy
    from envs.references import UniformRandom
    from envs.testbed import KnownMask, best_mask, worst_mask

    contexts = [context for deal in deals for context in deal.contexts]
    return {
        "none": None,
        RANDOM: UniformRandom(),
        AGAIN: UniformRandom(),
        "idf": make_strategy("idf", tokenizer=world.tokenizer, contexts=contexts),
        "worst mask": worst_mask(world),
        "best mask": best_mask(world),
        **{_share_name(share): KnownMask(world, share) for share in SHARES[1:-1]},
    }


@contextmanager
def _scoring(bed: Any, deal: Any, jobs: int) -> Iterator[Executor]:
    """Runs score jobs in sight: what they will cost, a bar while they run, what they took."""
    from envs.adaptation.executor import SerialExecutor
    from envs.adaptation.scorer import Scorer
    from envs.references import UniformRandom
    from nmg.evaluation import masking_job
    from nmg.forecast import forecast
    from nmg.probe import probe
    from nmg.progress import ProgressBar
    from nmg.score_cache import CachedExecutor

    scorer = Scorer(bed.language_model, bed.task)
    job = masking_job(
        bed.world,
        deal,
        UniformRandom(),
        name=RANDOM,
        budget=bed.budget,
        settings=bed.settings,
        run=0,
        number=0,
    )
    predicted = forecast({RANDOM: (jobs, job)}, probe(scorer, job))
    print(predicted, flush=True)
    started = time.perf_counter()
    with ProgressBar(jobs, "score job") as bar:
        scorer.progress = bar
        yield CachedExecutor(SerialExecutor(scorer), done=bar.job_done)
    print(predicted.against(time.perf_counter() - started))


def _share_name(share: float) -> str:
    return {0.0: "worst mask", 1.0: "best mask"}.get(share, f"share {share:.2f}")


def _table(scores: Scores) -> str:
    from nmg.comparison import tabulate
    from nmg.comparison_text import as_text

    fixed = {name: values for name, values in scores.items() if not name.startswith("share")}
    return as_text(tabulate(fixed, headline="nll", higher_is_better=False, unit="domains"))


def _noise(scores: Scores) -> str:
    """How much larger the effect of the best mask is than what two random masks differ by."""
    import numpy as np

    lines = []
    for metric, sign in (("nll", -1), ("accuracy", 1)):
        first, second, best = (
            np.array([score[metric] for score in scores[name]])
            for name in (RANDOM, AGAIN, "best mask")
        )
        effect = sign * (best - (first + second) / 2).mean()
        noise = float(np.sqrt(np.mean((first - second) ** 2)))
        ratio = effect / noise if noise else float("inf")
        lines.append(
            f"{metric}: best against random {effect:.3f}, two random masks differ by {noise:.3f} "
            f"(sd): {ratio:.1f} times."
        )
    return "\n".join(lines)


def response(scores: Scores, metric: str) -> list[tuple[float, float, float, float]]:
    """The curve: share of informative tokens, mean difference to random, its 95% interval."""
    import numpy as np

    from nmg.evaluation import INFORMATIVE
    from nmg.statistics import t_interval

    points = []
    against = np.array([score[metric] for score in scores[RANDOM]])
    for share in SHARES:
        given = scores[_share_name(share)]
        difference = np.array([score[metric] for score in given]) - against
        held = float(np.mean([score[INFORMATIVE] for score in given]))
        points.append((held, float(difference.mean()), *t_interval(difference)))
    return points


def _curve_text(scores: Scores) -> str:
    lines = ["share of informative tokens, and the paired difference to random with 95% interval:"]
    for nll, accuracy in zip(response(scores, "nll"), response(scores, "accuracy"), strict=True):
        lines.append(
            f"  {nll[0]:.2f}   nll {nll[1]:+.3f} [{nll[2]:+.3f}, {nll[3]:+.3f}]   "
            f"accuracy {accuracy[1]:+.1f} [{accuracy[2]:+.1f}, {accuracy[3]:+.1f}]"
        )
    return "\n".join(lines)


def draw(scores: Scores, setting: str, folder: Path) -> list[Path]:
    """Draw the response curves of likelihood and accuracy; gives the files written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (metric, unit) in zip(
        figure.subplots(1, 2), (("nll", "nats"), ("accuracy", "points")), strict=True
    ):
        share, mean, low, high = zip(*response(scores, metric), strict=True)
        axes.fill_between(share, low, high, alpha=0.2, linewidth=0)
        axes.plot(share, mean, marker="o")
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xlabel("share of informative tokens among the masked ones")
        axes.set_ylabel(f"{metric}, difference to random ({unit})")
    figure.suptitle(f"testbed, {setting}: {len(scores[RANDOM])} domains, 95% interval")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"response.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
