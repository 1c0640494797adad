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
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from report_tables import table

from envs.adaptation.jobs import Feature
from envs.adaptation.scorer import Scorer
from envs.models.runtime import tune_runtime
from envs.text_world import example_stratum, stratified_sample
from nmg.assembly import training_stage
from nmg.config import resolve_training
from nmg.evaluation import masking_job, seed_of
from nmg.noise_command import noise_of

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
    parser.add_argument("--deals", type=int, default=3, help="pairs of maskings (default: 3)")
    parser.add_argument("--repeats", type=int, default=3, help="training seeds (default: 3)")
    args = parser.parse_args(argv)
    tune_runtime(threads=1)
    flags = {"task": args.task, "dataset": args.dataset, "model": "minilm", "precision": "bf16"}
    flags |= {"held_out": 0.5, "score_examples": 2000, "contexts": 60, "train_examples": 200}
    config = resolve_training(flags, "classification" if args.task == "classification" else None)
    stage = training_stage(config.data, config.episode)
    task = Recorder(stage.task)
    scorer = Scorer(stage.scorer.language_model, task)
    settings = replace(config.adaptation, finetune_seeds=1)
    cost: dict[str, int] = defaultdict(int)
    for number in range(args.deals):
        deal = stage.world.deal(seed_of(config.run.seed, "reward set", number))
        pair = [
            masking_job(
                stage.world,
                deal,
                stage.random,
                name=name,
                budget=config.episode.budget,
                settings=settings,
                run=config.run.seed,
                number=number,
            )
            for name in ("one", "other")
        ]
        for repeat in range(args.repeats):
            seed = seed_of(config.run.seed, f"reward set/{number}", repeat)
            for job in pair:
                score = scorer(replace(job, seed=int(seed.generate_state(1)[0])))
                for stream, tokens in score.cost.items():
                    cost[stream] += tokens
            print(f"pair {number}, seed {repeat} done", file=sys.stderr, flush=True)
    report(args, task, cost)
    return 0


def report(args: argparse.Namespace, task: Recorder, cost: dict[str, int]) -> None:
    """Print a table for the headline and one for the likelihood."""
    runs, whole = task.outputs, len(task.outputs[0])
    strata = [example_stratum(rows[0][0].example) for rows in runs[0]]
    training = 3 * (cost["pretrain_tokens"] + cost["finetune_tokens"]) / len(runs)
    rng = np.random.default_rng(0)
    for metric in (args.headline, "nll"):
        every = rewards(task.task, runs, range(whole), metric)
        seeds = noise_of(every.reshape(args.deals, args.repeats)).seeds
        rows = [["examples", "added, in proportion", "added, alike", "together", "evaluation"]]
        for size in (s for s in args.sizes if s < whole):
            share = size / whole
            # Each pair is resampled with its companion: the same examples on both sides.
            kept = added(
                task.task, runs, lambda n=size: stratified_sample(strata, n, rng), metric, share
            )
            alike = added(
                task.task, runs, lambda n=size: rng.choice(whole, n, replace=False), metric, share
            )
            tokens = cost["eval_tokens"] / len(runs) * share
            rows.append(
                [
                    str(size),
                    f"{kept:.3g}",
                    f"{alike:.3g}",
                    f"{np.hypot(kept, seeds):.3g}",
                    f"{100 * tokens / (tokens + training):.0f}%",
                ]
            )
        print(f"\n{metric}: sd of a reward over training seeds {seeds:.3g}; {whole} examples held")
        print("\n".join(table(rows)))


if __name__ == "__main__":
    sys.exit(main())
