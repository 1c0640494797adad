"""Which learner finds the best mask of the testbed, after how many episodes and seconds.

    python benchmarks/learning.py                               every row, five seeds
    python benchmarks/learning.py --rows default paper --seeds 0 1
    python benchmarks/learning.py --rows paper --episodes 1000  longer than the row says
    python benchmarks/learning.py --only-report                 tables of what is there
    python benchmarks/learning.py --transfer standard easy sparse    judge its policies elsewhere

Every row is trained on domains of its own and judged on the same held-out domains, whose words no
training episode has. A finished run leaves a file in the folder and is not run again. Writes
``learning.png`` and the tables between the marks of ``results.md`` into the output folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MILESTONES = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    15,
    20,
    25,
    30,
    40,
    50,
    60,
    80,
    100,
    150,
    200,
    300,
    400,
    500,
    600,
    700,
    800,
    900,
    1000,
)
"""Episodes after which the share of informative tokens is taken; it costs no score."""
SCORED = (20, 30, 60, 100, 150, 300, 600, 1000)
"""Episodes after which the policy is scored, and after the last."""


def parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add(
        "--rows",
        nargs="+",
        choices=names,
        default=list(names),
        metavar="ROW",
        help=", ".join(names),
    )
    add("--seeds", nargs="+", type=int, default=list(range(5)), help="(default: 0 to 4)")
    add("--episodes", type=int, help="instead of what each row says")
    add("--setting", default="standard", help="of the testbed (default: standard)")
    add("--deals", type=int, default=10, help="held-out domains (default: 10)")
    add("--folder", type=Path, default=Path("output/learning"), help="for the result files")
    add("--output", type=Path, default=Path(__file__).parents[1] / "docs")
    add("--transfer", nargs="+", metavar="SETTING", help="judge saved policies in these settings")
    add("--only-report", action="store_true", help="run nothing")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, write the tables."""
    os.environ.update(dict.fromkeys(THREADS, "1"))  # before numpy: seconds are those of one core
    from learning_parts.report import write
    from learning_parts.rows import ROWS

    args = parser([row.name for row in ROWS]).parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.transfer:
        return judge_elsewhere(args)
    if not args.only_report:
        run_missing(args, [row for row in ROWS if row.name in args.rows])
    print(write(args.folder, args.setting, args.output))
    return 0


def judge_elsewhere(args: argparse.Namespace) -> int:
    """Policies of the rows in other settings."""
    from learning_parts.transfer import transfer

    from envs.models.runtime import tune_runtime

    tune_runtime(threads=1)
    for row in args.rows:
        if list(args.folder.glob(f"{args.setting}-{row}-*-policy")):
            print(transfer(args.folder, args.setting, row, args.transfer, args.deals), flush=True)
    return 0


def run_missing(args: argparse.Namespace, rows: Sequence[Any]) -> None:
    """One file a run; whatever is there is left alone."""
    from learning_parts.field import Field

    from envs.models.runtime import tune_runtime

    tune_runtime(threads=1)
    field = Field(args.setting, args.deals, args.folder)
    _ = field.reference  # now, so that no learner pays for it
    for seed in args.seeds:  # seed by seed: an unfinished comparison still has every row
        for row in rows:
            episodes = args.episodes or row.episodes
            path = args.folder / f"{args.setting}-{row.name}-{seed}.json"
            if path.exists() and json.loads(path.read_text())["episodes"] >= episodes:
                continue
            points, learned = run(row.learner, field, seed, episodes)
            if learned is not None:
                learned.save(args.folder / f"{path.stem}-policy")
            found = {
                "row": row.name,
                "seed": seed,
                "setting": args.setting,
                "deals": args.deals,
                "episodes": episodes,
                "points": points,
            }
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(found, indent=1), encoding="utf-8")
            aside.replace(path)
            last = points[-1]
            print(
                f"{row.name}, seed {seed}: {episodes} episodes, {last['cpu']:.0f} s, "
                f"informative {last['informative']:.2f}, closed {last['closed']:.2f}",
                flush=True,
            )


def run(learner: Any, field: Any, seed: int, episodes: int) -> tuple[list[dict[str, Any]], Any]:
    """Train, and judge the policy now and then; judging does not count as its time."""
    points: list[dict[str, Any]] = []
    started, judging = time.process_time(), 0.0

    def after(played: int, policy: Any) -> None:
        nonlocal judging
        if played not in MILESTONES and played != episodes:
            return
        now = time.process_time()
        scored = played in SCORED or played == episodes
        points.append(
            {
                "episode": played,
                "cpu": round(now - started - judging, 2),
                "informative": round(field.informative(policy), 4),
                "closed": round(field.closed(policy), 4) if scored else None,
            }
        )
        judging += time.process_time() - now

    return points, learner.learn(field, seed, episodes, after)


if __name__ == "__main__":
    sys.exit(main())
