"""What capping the reward set costs in noise, and what it saves.

    python benchmarks/reward_set.py                                    ChemProt; needs NMG_DATA
    python benchmarks/reward_set.py --task qa --dataset squadshifts-new_wiki --headline f1

A reward is the difference of two scores. Pairs of random maskings are scored, with several
training seeds, on all of a large held-out part, and the outputs of every example are kept. Rewards
are then recomputed on smaller sets, drawn in proportion to the strata as ``--score-examples`` does,
and drawn alike. *Added* is the standard deviation of a reward over such sets (divided by
sqrt(1 - share), as the part drawn from is finite); *together* adds the deviation over training
seeds, which is there whatever is scored on. *Evaluation* is its part of the products of a job, a
backward pass counting twice a forward one.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from report_tables import table

from envs.adaptation.executor import SerialExecutor
from envs.adaptation.scorer import Scorer
from envs.models.runtime import tune_runtime
from envs.tasks.task import Feature
from envs.text_world import example_stratum, stratified_sample
from nmg.assembly import training_setup
from nmg.noise_command import measure, noise_of
from nmg.resolution import resolve_training

DRAWS = 300
Rows = list[tuple[Feature, np.ndarray]]


class Recorder:
    """A task that keeps the outputs it is asked to evaluate, by example."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.outputs: list[list[Rows]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def evaluate(self, features: Sequence[Feature], outputs: Sequence[np.ndarray]) -> Any:
        """The task's own, on the side of which the outputs are kept."""
        of_example: dict[int, Rows] = defaultdict(list)
        for feature, output in zip(features, outputs, strict=True):
            of_example[id(feature.example)].append((feature, output))
        self.outputs.append(list(of_example.values()))
        return self.task.evaluate(features, outputs)


def rewards(
    task: Any, runs: Sequence[list[Rows]], examples: Sequence[int], metric: str
) -> np.ndarray:
    """One reward for each pair of runs, on some of the examples."""
    scores = []
    for run in runs:
        rows = [row for number in examples for row in run[number]]
        scores.append(task.evaluate([f for f, _ in rows], [o for _, o in rows])[metric])
    return np.subtract(scores[::2], scores[1::2])


def added(
    task: Any,
    runs: Sequence[list[Rows]],
    draw: Callable[[], Sequence[int]],
    metric: str,
    share: float,
) -> float:
    """Standard deviation of a reward over drawn sets that are this share of the whole."""
    drawn = np.stack([rewards(task, runs, draw(), metric) for _ in range(DRAWS)])
    return float(np.sqrt(drawn.var(axis=0, ddof=1).mean() / (1 - share)))


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="classification", choices=("classification", "qa"))
    parser.add_argument("--dataset", default="chemprot")
    parser.add_argument("--headline", default="accuracy")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    parser.add_argument("--whole", type=int, default=2000, help="examples held (default: 2000)")
    parser.add_argument("--deals", type=int, default=3, help="pairs of maskings (default: 3)")
    parser.add_argument("--repeats", type=int, default=3, help="training seeds (default: 3)")
    args = parser.parse_args(argv)
    tune_runtime(threads=1)
    flags = {"task": args.task, "dataset": args.dataset, "model": "minilm", "precision": "bf16"}
    flags |= {"held_out": 0.5, "score_examples": args.whole, "finetune_seeds": 1}
    flags |= {"contexts": 60, "train_examples": 200}
    config = resolve_training(flags, "classification" if args.task == "classification" else None)
    setup = training_setup(config.data, config.episode)
    task = Recorder(setup.task)
    executor = SerialExecutor(Scorer(setup.scorer.language_model, task, progress))
    differences = measure(config, setup, executor, args.deals, args.repeats)
    cost: Counter[str] = Counter()
    for score in executor.scores.values():
        cost.update(score.cost)
    for metric in (args.headline, "nll"):
        report(task, metric, noise_of(differences[metric]).seeds, cost, args.sizes)
    return 0


def progress(phase: str, step: int, steps: int) -> None:
    """A line for each job that ends."""
    if phase == "evaluation" and step == steps:
        print("a job done", file=sys.stderr, flush=True)


def report(
    task: Recorder, metric: str, seeds: float, cost: Counter[str], sizes: Sequence[int]
) -> None:
    """Print the table of a metric, whose rewards vary by ``seeds`` over training seeds."""
    runs, whole = task.outputs, len(task.outputs[0])
    strata = [example_stratum(rows[0][0].example) for rows in runs[0]]
    training = 3 * (cost["pretrain_tokens"] + cost["finetune_tokens"])
    rng = np.random.default_rng(0)
    rows = [["examples", "added, in proportion", "added, alike", "together", "evaluation"]]
    for size in (size for size in sizes if size < whole):
        ways: list[Callable[[], Sequence[int]]] = [
            lambda n=size: stratified_sample(strata, n, rng),
            lambda n=size: rng.choice(whole, n, replace=False),
        ]
        share = size / whole
        kept, alike = (added(task.task, runs, draw, metric, share) for draw in ways)
        evaluation = cost["eval_tokens"] * share
        figures = [f"{sd:.3g}" for sd in (kept, alike, np.hypot(kept, seeds))]
        rows.append([str(size), *figures, f"{evaluation / (evaluation + training):.0%}"])
    print(f"\n{metric}: sd of a reward over training seeds {seeds:.3g}; {whole} examples held")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    sys.exit(main())
