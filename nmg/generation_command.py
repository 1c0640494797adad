"""``nmg generation``: does pre-training on fragments help generation? One paired table."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmg.config_files import comparison_file
from nmg.generation_config import NONE, GenerationComparison, GenerationConfig
from nmg.options import add_flags, build, given_flags, user_path
from nmg.run_folders import (
    check_same,
    claimed,
    keep_results,
    run_folder,
    stoppable,
    write_settings,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from envs.adaptation.generation_scorer import GenerationScorer
    from envs.adaptation.jobs import ScoreJob
    from envs.models.seq2seq import Seq2SeqModel
    from nmg.comparison import ComparisonTable
    from nmg.forecast import Forecast
    from nmg.generation import GenerationSetup
    from nmg.generation_arms import Arm
    from nmg.score_cache import CachedExecutor

EXAMPLES = """examples:
  nmg new-lm --architecture bart --dataset multi30k --output models/multi30k
  nmg generation --dataset multi30k --model models/multi30k --objective mass scattered \\
                 --k 0 0.25 0.5 0.75 1 --pairs 1000 5000 --seeds 3
  nmg generation --dataset multi30k --model models/multi30k --side source \\
                 --placement uniform idf output/multi30k/multi30k/mine_neural
  nmg generation --dataset multi30k --model models/multi30k --objective amt --pairs 0
  nmg generation --dataset scitldr --model facebook/bart-base --pretrain-lr 3e-5 --finetune-lr 3e-5
"""
FREE = (
    *("seeds", "first_seed", "objective", "k", "scattered_k", "placement", "pairs"),
    *("device", "data_dir"),
)
"""Settings that may change when a comparison goes on: seeds, arms, fractions and pairs may be
added, what has been scored stays what it was."""


def add_parser(subparsers: Any) -> None:
    """Mount ``generation`` on the command line."""
    parser = subparsers.add_parser(
        "generation",
        help="compare pre-training for generation",
        description="Pre-train a sequence-to-sequence model on the texts of a data set (MASS: "
        "fragments; or scattered tokens), fine-tune it on few of the pairs, and score what it "
        "writes for the test split; every arm over the same seeds, beside no pre-training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=user_path, metavar="FILE", help="YAML with names as below")
    parser.add_argument("--name", help="of the results (default: the time)")
    parser.add_argument(
        "--output", type=user_path, metavar="DIR", help="folder; the same command there goes on"
    )
    add_flags(parser, GenerationConfig, sources=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the settings, then compare."""
    from_file = comparison_file(args.config, GenerationConfig)
    config = build(GenerationConfig, {**from_file, **given_flags(GenerationConfig, args)})
    if not config.data.model:
        raise ValueError(
            "Give --model: a folder (make one with nmg new-lm) or a hub id such as t5-small."
        )
    folder = args.output or run_folder(config, args.name, "generation")
    with claimed(folder, anew=not (args.output or args.name)) as folder:
        check_same(folder, config, FREE)
        with stoppable(f"the same command with --output {shlex.quote(str(folder))}", folder):
            compare_objectives(config, folder)
    return 0


def compare_objectives(config: GenerationConfig, folder: Path) -> dict[int, ComparisonTable]:
    """Score every arm with every seed; print and write one table for each number of pairs."""
    from envs.generation_building import build_generation_task
    from envs.models.runtime import tune_runtime
    from nmg.assembly import generation_model
    from nmg.checkpoint import chosen_checkpoint, described_choice
    from nmg.comparison import tabulate
    from nmg.generation import gather
    from nmg.generation_arms import arms

    tune_runtime(threads=1)  # results must not depend on the machine's cores
    data, comparison = config.data, config.comparison
    model = generation_model(data)
    task = build_generation_task(
        data.dataset,
        model,
        metric=data.metric,
        max_source_length=data.max_source_length,
        max_target_length=data.max_target_length,
        prefix=data.prefix,
    )
    setup, rows = gather(config, model, task), arms(comparison)
    check_tables(folder, comparison, rows)
    scorers = make_scorers(config, model, task, {arm.kind for arm in rows})
    # Only now: a comparison that could not begin leaves nothing behind.
    write_settings(folder, config)
    arms_text = "1 arm" if len(rows) == 1 else f"{len(rows)} arms"
    seeds_text = "1 seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    print(f"{setup.about}; {arms_text} x {seeds_text}", flush=True)
    scores, took = score(config, folder, setup, rows, scorers)
    tables = {
        count: tabulate(
            scores[count],
            headline=task.headline,
            higher_is_better=task.higher_is_better[task.headline],
            reference=NONE,
        )
        for count in comparison.pairs
    }
    about = "\n".join([setup.about, *diverged(scores, rows)])
    told = write_results(folder, about, tables, comparison.all_seeds)
    print("\n".join(["", *diverged(scores, rows), told]))
    for placement in setup.policies:
        checkpoint = chosen_checkpoint(Path(placement))
        print(f"{placement}: {described_choice(Path(placement), checkpoint)}")
    print(f"{took} Results: {folder}")
    return tables


def make_scorers(
    config: GenerationConfig, model: Seq2SeqModel, task: Any, kinds: Collection[str]
) -> dict[str, GenerationScorer]:
    """The scorer of each kind of arm.

    All of them before any job: a scorer takes the model's weights as it finds them.
    """
    from envs.adaptation.generation_scorer import GenerationScorer, GenerationSettings
    from nmg.generation_amt import AdversarialObjective

    settings = GenerationSettings(config.comparison.beams, config.comparison.smoothing)
    made = {}
    for kind in sorted(kinds):
        objective = AdversarialObjective(config) if kind == "amt" else None
        made[kind] = GenerationScorer(model, task, settings=settings, objective=objective)
    return made


def score(
    config: GenerationConfig,
    folder: Path,
    setup: GenerationSetup,
    rows: Sequence[Arm],
    scorers: Mapping[str, GenerationScorer],
) -> tuple[dict[int, dict[str, list[dict[str, float]]]], str]:
    """The metrics of every arm for each seed, by number of pairs, and a word on what it took."""
    from envs.adaptation.executor import SerialExecutor
    from nmg.generation import arm_jobs
    from nmg.progress import ProgressBar
    from nmg.score_cache import CachedExecutor

    comparison = config.comparison
    scores: dict[int, dict[str, list[dict[str, float]]]] = {
        count: {arm.name: [] for arm in rows} for count in comparison.pairs
    }
    predicted, started = None, 0.0
    jobs = len(rows) * comparison.seeds * len(comparison.pairs)
    with ProgressBar(jobs, "score job") as bar:
        executors = {}
        for kind, scorer in scorers.items():
            scorer.progress = bar
            cache = folder / "scores" / scorer.fingerprint / kind
            executors[kind] = CachedExecutor(SerialExecutor(scorer), cache, bar.job_done)
        for seed in comparison.all_seeds:
            for arm in rows:
                for count, job in arm_jobs(config, setup, arm, seed):
                    if predicted is None and not executors[arm.kind].remembers(job):
                        predicted = forecast_arms(config, setup, rows, scorers, executors, seed)
                        print(predicted, flush=True)
                        started = time.perf_counter()
                    result = executors[arm.kind].submit(job).result()
                    scores[count][arm.name].append(dict(result.metrics))
    for executor in executors.values():
        executor.check_written()
    if predicted is None:
        return scores, "All scores were there."
    return scores, predicted.against(time.perf_counter() - started)


def diverged(
    scores: Mapping[int, Mapping[str, Sequence[Mapping[str, float]]]], rows: Sequence[Arm]
) -> list[str]:
    """A sentence for each arm, of each number of pairs, whose training gave what is no number."""
    told = []
    for count, by_arm in scores.items():
        where = f", {_pairs(count)}" if len(scores) > 1 else ""
        for arm in rows:
            seeds = by_arm[arm.name]
            bad = sum(not math.isfinite(metrics["nll"]) for metrics in seeds)
            if bad:
                lower = "--finetune-lr" + ("" if arm.k is None else " or --pretrain-lr")
                told.append(
                    f"{arm.name}{where}: the training diverged in {bad} of {len(seeds)} "
                    f"{'seed' if len(seeds) == 1 else 'seeds'}; its scores say nothing; "
                    f"give a lower {lower}."
                )
    return told


def write_results(
    folder: Path, about: str, tables: Mapping[int, ComparisonTable], seeds: Sequence[int]
) -> str:
    """Write ``results.json`` and ``table.txt``; gives the tables as text."""
    from envs.folders import write_text
    from nmg.comparison import as_json
    from nmg.comparison_text import as_text

    texts = [f"{_pairs(count)}:\n\n{as_text(table)}\n" for count, table in tables.items()]
    results = {str(count): as_json(table) for count, table in tables.items()}
    write_text(
        folder / "results.json",
        json.dumps({"pairs": results, "seeds": list(seeds)}, indent=2) + "\n",
    )
    write_text(folder / "table.txt", "\n".join([f"{about}\n", *texts]))
    return "\n".join(texts)


def check_tables(folder: Path, comparison: GenerationComparison, rows: Sequence[Arm]) -> None:
    """See to it that no table, row or seed goes from the results that a folder holds.

    Raises:
        ValueError: if one would.
    """
    names = [arm.name for arm in rows]
    seeds = comparison.all_seeds

    def lost(before: dict[str, Any]) -> list[str]:
        counts = {int(count): table["rows"] for count, table in before["pairs"].items()}
        gone = [_pairs(count) for count in counts if count not in comparison.pairs]
        before_names = dict.fromkeys(row["masking"] for table in counts.values() for row in table)
        gone += [name for name in before_names if name not in names]
        return gone + [f"seed {seed}" for seed in before["seeds"] if seed not in seeds]

    keep_results(folder, lost)


def forecast_arms(
    config: GenerationConfig,
    setup: GenerationSetup,
    rows: Sequence[Arm],
    scorers: Mapping[str, GenerationScorer],
    executors: Mapping[str, CachedExecutor],
    seed: int,
) -> Forecast:
    """Predict the cost of what is left with this seed and those after it, from jobs of this one."""
    from nmg.forecast import forecast
    from nmg.generation import arm_jobs
    from nmg.probe import probe

    seeds = range(seed, config.comparison.all_seeds.stop)
    # To make the jobs of all seeds takes long; it tells something only where some are done.
    looked_at = seeds if any(executor.holds_scores for executor in executors.values()) else [seed]
    parts = []
    for kind, scorer in scorers.items():
        mine = [arm for arm in rows if arm.kind == kind]
        masked = max(mine, key=lambda arm: arm.k is not None)
        _, example = next(arm_jobs(config, setup, masked, seed))
        rates = probe(scorer, example)
        for arm in mine:
            left: dict[int, list[ScoreJob]] = {}
            for each in looked_at:
                for pairs, job in arm_jobs(config, setup, arm, each):
                    if not executors[kind].remembers(job):
                        left.setdefault(pairs, []).append(job)
            for number, jobs in enumerate(left.values()):
                # The jobs of an arm share their pre-training.
                own = replace(jobs[0], masks=None) if number else jobs[0]
                count = len(jobs) * len(seeds) // len(looked_at)
                parts.append(forecast({arm.name: (count, own)}, rates))
    return sum(parts[1:], parts[0])


def _pairs(count: int) -> str:
    return f"fine-tuned on {count:,} pairs" if count else "fine-tuned on all pairs"
