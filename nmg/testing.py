"""``nmg test``: meta-testing, every masking over the same seeds, on the test split."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmg.config import ComparisonConfig, TestingConfig
from nmg.config_files import comparison_file
from nmg.limits import refuse_idle, refuse_idle_reference
from nmg.options import add_flags, given_flags, user_path
from nmg.resolution import resolve_testing
from nmg.run_folders import (
    check_same,
    claimed,
    keep_results,
    run_folder,
    stoppable,
    trained_settings,
    write_settings,
)

if TYPE_CHECKING:
    from nmg.comparison import ComparisonTable
    from nmg.evaluation import Masking
    from nmg.forecast import Forecast
    from nmg.testing_setup import TestSetup

EXAMPLES = """examples:
  nmg test --policy output/testbed/tiny/mine_neural --strategy idf --seeds 10
  nmg test --policy output/squadshifts-new_wiki/minilm/a_neural --test-dataset squad \\
           --contexts 200 --examples 1000 --seeds 3
  nmg test --task classification --dataset chemprot --model minilm --strategy idf whole_word
  nmg test --task classification --dataset labelled.csv --corpus domain.txt --model minilm \\
           --strategy idf
"""
FREE = ("seeds", "workers", "device", "data_dir", "controls", "random_draws")
"""Settings that may change when a comparison goes on; more seeds may be added."""


def add_parser(subparsers: Any) -> None:
    """Mount ``test`` on the command line."""
    parser = subparsers.add_parser(
        "test",
        help="compare maskings on the test split (meta-testing)",
        description="Further pre-train on the training corpus with each masking, fine-tune, and "
        "score on the test split; over the same seeds, always beside `none` and `random`.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--policy",
        action="extend",
        type=user_path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="runs or checkpoints",
    )
    what.add_argument(
        "--strategy",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="e.g. idf span; `adversarial` learns from the model's losses",
    )
    what.add_argument(
        "--start", type=int, default=0, help="use no checkpoint before this episode (default: 0)"
    )
    place = parser.add_argument_group("where the results go")
    place.add_argument("--name", help="of the results (default: the time)")
    place.add_argument(
        "--output", type=user_path, metavar="DIR", help="folder; the same command there goes on"
    )
    add_flags(parser, TestingConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the settings, then compare."""
    from nmg.checkpoint import chosen_checkpoint

    for policy in args.policy:
        chosen_checkpoint(policy, args.start)  # a wrong path is told at once
    config = resolve(args)
    folder = args.output or run_folder(config, args.name, "test")
    with claimed(folder, anew=not (args.output or args.name)) as folder:
        check_same(folder, config, FREE)
        with stoppable(f"the same command with --output {shlex.quote(str(folder))}", folder):
            compare_maskings(config, folder, args.policy, args.strategy, args.start)
    return 0


def resolve(args: argparse.Namespace) -> TestingConfig:
    """Settings from flags, file, preset and the run of the first policy."""
    from_file = comparison_file(args.config, TestingConfig)
    trained = trained_settings(args.policy[0]) if args.policy else {}
    flags = given_flags(TestingConfig, args)
    config = resolve_testing(flags, args.preset, from_file, trained)
    refuse_idle(config.data.task, flags)
    refuse_idle_reference(flags.get("reference"), args.strategy)
    _same_world(config.data.task, args.policy)
    return config


def _same_world(task: str, policies: Sequence[Path]) -> None:
    """Refuse policies of the testbed on text, and the other way round.

    Raises:
        ValueError: if there are any.
    """
    for policy in policies:
        learned_on = trained_settings(policy).get("task", task)
        if learned_on != task and "testbed" in (learned_on, task):
            on = "the testbed" if learned_on == "testbed" else f"text ({learned_on})"
            raise ValueError(
                f"The policy in {policy} was learned on {on}, but the task is {task}; it cannot "
                "be used there, since the testbed has a model of its own."
            )


def compare_maskings(
    config: TestingConfig,
    folder: Path,
    policies: Sequence[Path],
    strategies: Sequence[str],
    start: int = 0,
) -> ComparisonTable:
    """Score every masking with every seed, print the table, write results and report."""
    from envs.models.runtime import tune_runtime
    from nmg.checkpoint import described_choice
    from nmg.comparison import averaged, draws_of_random, tabulate
    from nmg.comparison_text import as_text
    from nmg.testing_setup import build_test_setup

    tune_runtime(threads=1)  # results must not depend on the machine's cores
    on = build_test_setup(config)
    maskings, used = gather_maskings(config, on, policies, strategies, start)
    check_rows(folder, maskings, used, config.comparison)
    # Only now: a comparison that could not begin leaves nothing behind.
    write_settings(folder, config)
    about, draws = on.about, config.comparison.random_draws
    if draws > 1:
        about += f" The row random is the mean of {draws} maskings a seed."
    print(about)
    scores, predicted, seconds = score(config, folder, on, maskings)
    scores, headline = averaged(scores, draws_of_random(draws)), on.task.headline
    better = on.task.higher_is_better[headline]
    table = tabulate(scores, headline=headline, higher_is_better=better)
    write_results(config, folder, about, table, used, seconds)
    print("\n" + as_text(table) + "\n")
    for given, (name, checkpoint) in zip(policies, used.items(), strict=True):
        print(f"{name}: {described_choice(given, Path(checkpoint))}")
    print(f"Report: {folder / 'report.html'}")
    print(predicted.against(seconds))
    return table


def score(
    config: TestingConfig, folder: Path, on: TestSetup, maskings: Mapping[str, Masking]
) -> tuple[Mapping[str, Sequence[Mapping[str, float]]], Forecast, float]:
    """The metrics of every masking for each seed, what they were said to cost, and seconds."""
    from nmg.assembly import open_executor, worker_count
    from nmg.evaluation import evaluate
    from nmg.forecast import forecast_maskings, jobs_left
    from nmg.progress import ProgressBar

    budget, settings = config.comparison.budget, config.adaptation
    deals = {seed: on.deal(seed) for seed in config.comparison.all_seeds}
    with (
        ProgressBar(len(maskings) * len(deals), "score job") as bar,
        open_executor(on, config.data, cache=folder / "scores", bar=bar) as executor,
    ):
        left = jobs_left(
            on.world,
            {(seed, 0): deal for seed, deal in deals.items()},
            maskings,
            executor,
            budget=budget,
            settings=settings,
        )
        first = config.comparison.first_seed
        predicted = forecast_maskings(
            on,
            deals[first],
            left,
            budget=budget,
            settings=settings,
            run=first,
            workers=worker_count(config.data),
        )
        print(predicted, flush=True)
        started = time.perf_counter()
        scores: dict[str, list[dict[str, float]]] = {name: [] for name in maskings}
        for seed, deal in deals.items():
            one = evaluate(
                on.world, [deal], maskings, executor, budget=budget, settings=settings, run=seed
            )
            for name, values in one.items():
                scores[name] += values
    return scores, predicted, time.perf_counter() - started


def write_results(
    config: TestingConfig,
    folder: Path,
    about: str,
    table: ComparisonTable,
    used: Mapping[str, str],
    seconds: float,
) -> None:
    """Write ``results.json`` and the report."""
    from envs.folders import write_text
    from nmg.comparison import as_json
    from nmg.testing_report import write_testing_report

    results = {
        **as_json(table),
        "seeds": list(config.comparison.all_seeds),
        "random_draws": config.comparison.random_draws,
        "policies": used,
    }
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_testing_report(folder, config, about, table, used, seconds)


def check_rows(
    folder: Path, maskings: Collection[str], used: Mapping[str, str], comparison: ComparisonConfig
) -> None:
    """See to it that nothing goes from the table that a folder holds: it is written anew.

    Args:
        folder: of the results.
        maskings: rows of the table to come.
        used: policy -> its checkpoint.
        comparison: seeds of the table to come, and draws of its reference.

    Raises:
        ValueError: if a row would go, or be another policy's, or a seed or a draw would go.
    """

    from nmg.comparison import draws_of_random

    def lost(before: dict[str, Any]) -> list[str]:
        gone = [row["masking"] for row in before["rows"] if row["masking"] not in maskings]
        gone += [
            f"{name} ({path})"
            for name, path in before["policies"].items()
            if name in used and Path(path).resolve() != Path(used[name]).resolve()
        ]
        gone += [f"seed {seed}" for seed in before["seeds"] if seed not in comparison.all_seeds]
        draws = draws_of_random(before.get("random_draws", 1))
        return gone + [name for name in draws if name not in maskings]

    keep_results(folder, lost)


def gather_maskings(
    config: TestingConfig,
    on: TestSetup,
    policies: Sequence[Path],
    strategies: Sequence[str],
    start: int,
) -> tuple[dict[str, Masking], dict[str, str]]:
    """Every masking by name, and the checkpoint behind each policy.

    Always with ``none`` and ``random``; each learned policy with its null controls.
    """
    from envs.references import UniformRandom
    from nmg.checkpoint import chosen_checkpoint
    from nmg.comparison import draws_of_random
    from nmg.evaluation import Greedy, observe
    from nmg.maskings import controls, load_policy, measured, policy_name, strategy
    from nmg.online import ADVERSARIAL, online_adversary

    world, states = on.world, on.states
    draws = draws_of_random(config.comparison.random_draws)
    maskings: dict[str, Masking] = {}
    used: dict[str, str] = {}
    for run_dir in policies:
        checkpoint = chosen_checkpoint(run_dir, start)
        policy = load_policy(checkpoint, states, world.vocab_size)
        # A run may be called as the fixed maskings are, which would take its row.
        name = policy_name(run_dir, {*used, *strategies, *draws, "none", "best mask"})
        used[name] = str(checkpoint)
        maskings[name] = Greedy(policy)
        if config.comparison.controls:
            deal = on.measuring_deal()
            seen = measured(observe(world, deal, config.comparison.budget))
            maskings |= controls(name, run_dir, policy, states, world.vocab_size, seen)
    maskings |= {name: UniformRandom() for name in draws} | {"none": None}
    for name in strategies:
        if name == ADVERSARIAL:
            maskings[name] = online_adversary(on.scorer.language_model)
        elif name not in maskings:
            maskings[name] = strategy(name, on, on.contexts)
    if on.best is not None:
        maskings["best mask"] = on.best
    return maskings, used
