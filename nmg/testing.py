"""``nmg test``: meta-testing, every masking over the same seeds, on the test split."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmg.config import TestingConfig, resolve_testing
from nmg.options import add_flags, build, flatten, given_flags, read_settings, write_settings

if TYPE_CHECKING:
    from envs.world import Deal
    from nmg.arena import Arena
    from nmg.comparison import ComparisonTable
    from nmg.score_cache import CachedExecutor

EXAMPLES = """examples:
  nmg test --policy output/testbed/tiny/mine_neural --strategy idf --seeds 10
  nmg test --policy output/squadshifts-new_wiki/minilm/a_neural --test-dataset squad \\
           --contexts 200 --examples 1000 --seeds 3
  nmg test --task classification --dataset chemprot --model minilm --strategy idf whole_word
  nmg test --task classification --dataset labelled.csv --corpus domain.txt --model minilm \\
           --strategy idf
"""


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
        type=Path,
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
        "--output", type=Path, metavar="DIR", help="folder; the same command there goes on"
    )
    add_flags(parser, TestingConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the settings, then compare."""
    from nmg.checkpoint import chosen_checkpoint
    from nmg.training import run_folder, stoppable

    for policy in args.policy:
        chosen_checkpoint(policy, args.start)  # a wrong path is told at once
    config = resolve(args)
    folder = args.output or run_folder(config, args.name, "test")
    check_folder(folder, config)
    with stoppable(f"the same command with --output {shlex.quote(str(folder))}", folder):
        compare_maskings(config, folder, args.policy, args.strategy, args.start)
    return 0


def resolve(args: argparse.Namespace) -> TestingConfig:
    """Settings from flags, file, preset and the run of the first policy."""
    from_file = read_settings(args.config) if args.config else {}
    trained = trained_settings(args.policy[0]) if args.policy else {}
    return resolve_testing(given_flags(TestingConfig, args), args.preset, from_file, trained)


def trained_settings(policy: Path) -> dict[str, Any]:
    """The settings that a policy was trained with, if it lies in a run folder."""
    for folder in (policy, policy.parent.parent):
        if (folder / "resolved.yaml").is_file():
            return read_settings(folder / "resolved.yaml")
    return {}


def check_folder(folder: Path, config: TestingConfig) -> None:
    """See to it that the folder is free or holds the same comparison.

    Raises:
        ValueError: if it holds another run, or nothing can be written there.
    """
    from envs.folders import check_writable

    check_writable(folder)
    path = folder / "resolved.yaml"
    if not path.is_file():
        return
    before = read_settings(path)
    if "seeds" not in before or _comparable(build(TestingConfig, before)) != _comparable(config):
        raise ValueError(f"{folder} already holds another run; give another --name or --output.")


def _comparable(config: TestingConfig) -> Any:
    """What must be the same for results to go together; more seeds may be added."""
    free = ("seeds", "workers", "device", "data_dir", "controls")
    return {name: value for name, value in flatten(config).items() if name not in free}


def compare_maskings(
    config: TestingConfig,
    folder: Path,
    policies: Sequence[Path],
    strategies: Sequence[str],
    start: int = 0,
) -> ComparisonTable:
    """Score every masking with every seed, print the table, write results and report."""
    from nmg.arena import build_arena
    from nmg.assembly import open_workshop, worker_count
    from nmg.callbacks import EpisodeBar
    from nmg.checkpoint import described_choice, write_text
    from nmg.comparison import as_json, as_text, tabulate
    from nmg.evaluation import evaluate
    from nmg.forecast import forecast_maskings
    from nmg.testing_report import write_testing_report
    from nmg.training import prepare_process

    prepare_process()
    arena = build_arena(config)
    comparison = config.comparison
    seeds = range(comparison.first_seed, comparison.first_seed + comparison.seeds)
    maskings, used = gather_maskings(config, arena, policies, strategies, start)
    # Only now: a comparison that could not begin leaves no folder behind.
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, config)
    print(arena.about)
    deals = [arena.deal(seed) for seed in seeds]
    bar = EpisodeBar(len(maskings) * len(deals), "score job")
    shop = open_workshop(arena.stage, config.data, cache=folder / "scores", bar=bar)
    try:
        predicted = forecast_maskings(
            arena.stage,
            deals[0],
            jobs_left(config, arena, dict(zip(seeds, deals, strict=True)), maskings, shop.executor),
            budget=comparison.budget,
            settings=config.adaptation,
            run=seeds[0],
            workers=worker_count(config.data),
        )
        print(predicted, flush=True)
        started = time.perf_counter()
        scores: dict[str, list[dict[str, float]]] = {name: [] for name in maskings}
        for seed, deal in zip(seeds, deals, strict=True):
            one = evaluate(
                arena.stage.world,
                [deal],
                maskings,
                shop.executor,
                budget=comparison.budget,
                settings=config.adaptation,
                run=seed,
            )
            for name, values in one.items():
                scores[name] += values
    finally:
        bar.close()
        shop.close()
    task = arena.stage.task
    table = tabulate(
        scores,
        headline=task.headline,
        higher_is_better=task.higher_is_better.get(task.headline, True),
    )
    results = {**as_json(table), "seeds": list(seeds), "policies": used}
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    seconds = time.perf_counter() - started
    write_testing_report(folder, config, arena.about, table, used, seconds)
    print("\n" + as_text(table) + "\n")
    for given, (name, checkpoint) in zip(policies, used.items(), strict=True):
        print(f"{name}: {described_choice(given, Path(checkpoint))}")
    print(f"Report: {folder / 'report.html'}")
    print(predicted.against(seconds))
    return table


def jobs_left(
    config: TestingConfig,
    arena: Arena,
    deals: Mapping[int, Deal],
    maskings: Mapping[str, Any],
    executor: CachedExecutor,
) -> int:
    """How many scores are not remembered; those of maskings that learn on the way all count."""
    from nmg.evaluation import masking_job

    if not executor.holds_scores:
        return len(maskings) * len(deals)
    return sum(
        hasattr(masking, "rehearse")
        or not executor.remembers(
            masking_job(
                arena.stage.world,
                deal,
                masking,
                name=name,
                budget=config.comparison.budget,
                settings=config.adaptation,
                run=seed,
                number=0,
            )
        )
        for seed, deal in deals.items()
        for name, masking in maskings.items()
    )


def gather_maskings(
    config: TestingConfig,
    arena: Arena,
    policies: Sequence[Path],
    strategies: Sequence[str],
    start: int,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Every masking by name, and the checkpoint behind each policy.

    Always with ``none`` and ``random``; each learned policy with its null controls.
    """
    from envs.references import UniformRandom
    from nmg.checkpoint import chosen_checkpoint
    from nmg.evaluation import Greedy, observe
    from nmg.maskings import controls, load_policy, measured, strategy
    from nmg.online import ADVERSARIAL, online_adversary

    world, states = arena.stage.world, arena.stage.states
    maskings: dict[str, Any] = {}
    used: dict[str, str] = {}
    for run_dir in policies:
        checkpoint = chosen_checkpoint(run_dir, start)
        policy = load_policy(checkpoint, states, world.vocab_size)
        # A run may be called as the fixed maskings are, which would take its row.
        name = policy_name(run_dir, {*used, *strategies, "random", "none", "best mask"})
        used[name] = str(checkpoint)
        maskings[name] = Greedy(policy)
        if config.comparison.controls:
            deal = arena.measuring_deal()
            seen = measured(observe(world, deal, config.comparison.budget))
            maskings |= controls(name, run_dir, policy, states, world.vocab_size, seen)
    maskings |= {"random": UniformRandom(), "none": None}
    for name in strategies:
        if name == ADVERSARIAL:
            maskings[name] = online_adversary(arena.stage.scorer.language_model)
        elif name not in maskings:
            maskings[name] = strategy(name, world, arena.contexts, arena.texts)
    if arena.best is not None:
        maskings["best mask"] = arena.best
    return maskings, used


def policy_name(run: Path, taken: Any) -> str:
    """What the table calls a policy: its run's name, numbered if there are two of it."""
    folder = run.parent.parent if run.parent.name == "checkpoints" else run
    name = folder.name if folder == run else f"{folder.name}@{int(run.name)}"
    number, unique = 2, name
    while unique in taken:
        unique, number = f"{name} ({number})", number + 1
    return unique
