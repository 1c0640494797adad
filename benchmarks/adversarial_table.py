"""The table of what the adversary masks in text: reads what ``adversarial.sh`` left in a folder.

    python benchmarks/adversarial_table.py FOLDER

Over the first and the last tenth of the steps, mean over seeds with Student's 95% interval; and the
masked-LM loss on held-out text whose masks are random, adversarial minus random, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from report_tables import table

from nmg.statistics import compare

PREFERENCES = {
    "rarity": "rank correlation of mask rate with rarity",
    "difficulty": "with the model's loss",
    "frequent": "share on the 100 most frequent types",
}


def mean_and_interval(values: list[float], form: str, zero: list[float] | None = None) -> str:
    """Mean of the (differences of the) values with its interval."""
    found = compare(values, zero or [0.0] * len(values))
    numbers = (form.format(x) for x in (found.difference, found.low, found.high))
    return "{} [{}, {}]".format(*numbers)


def main(argv: list[str] | None = None) -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    runs = {
        kind: [json.loads(p.read_text()) for p in sorted(folder.glob(f"{kind}-*/adapt.json"))]
        for kind in ("random", "adversarial")
    }
    seeds = len(runs["random"])
    if seeds < 2 or len(runs["adversarial"]) != seeds:
        print(f"{folder} has no two seeds of both; without them there is no interval to print.")
        return 0
    rows = [["masks", *PREFERENCES.values(), "loss on held-out text"]]
    losses = {kind: [run["after"]["loss"] for run in found] for kind, found in runs.items()}
    for kind, found in runs.items():
        for part, name in ((0, "first tenth"), (-1, "last tenth")):
            cells = [
                mean_and_interval([run["preferences"][part][key] for run in found], "{:+.2f}")
                for key in PREFERENCES
            ]
            loss = mean_and_interval(losses[kind], "{:.2f}") if part else ""
            rows.append([f"{kind}, {name}", *cells, loss])
    print("\n".join(table(rows)))
    difference = mean_and_interval(losses["adversarial"], "{:+.2f}", losses["random"])
    print(f"\n{seeds} seeds. Held-out loss, adversarial - random: {difference} nats.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
