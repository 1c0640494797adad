"""``nmg diff``: what differs between runs, settings and results side by side."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmg.checkpoint import read_object
from nmg.comparison_text import number
from nmg.options import read_settings, user_path

EXAMPLES = """examples:
  nmg diff output/testbed/tiny/a_neural output/testbed/tiny/b_neural
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``diff`` on the command line."""
    parser = subparsers.add_parser(
        "diff",
        help="show what differs between runs",
        description="Settings that differ between runs, and their results, side by side.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="a run folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the two tables."""
    if len(args.runs) < 2:
        raise ValueError("One run differs from nothing; give at least two run folders.")
    names = telling_names(args.runs)
    settings = [_settings(run) for run in args.runs]
    results = [_results(run, its) for run, its in zip(args.runs, settings, strict=True)]
    print(_columns("setting", names, differing(settings)))
    print()
    print(_columns("result", names, side_by_side(results)))
    return 0


def telling_names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; where two share one, as much of their paths as tells them apart."""
    paths = [Path(os.path.abspath(run)) for run in runs]  # a `.` has no name; links keep theirs
    names: list[str] = []
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = [str(Path(*path.parts[-length:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs; ``-`` where a run has none of the name."""
    return {
        name: values
        for name, values in side_by_side(settings).items()
        if any(value != values[0] for value in values)
    }


def side_by_side(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Name -> its value in each run, in the order in which names first appear."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: [str(run.get(name, "-")) for run in runs] for name in names}


def _settings(run: Path) -> dict[str, Any]:
    path = run / "resolved.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run folder: it has no resolved.yaml.")
    return read_settings(path)


def _results(run: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    path = run / "results.json"
    if not path.is_file():
        none_asked = settings.get("final_episodes") == 0
        return {"state": "none asked for (final_episodes 0)" if none_asked else "no results yet"}
    results = read_object(path)
    try:
        if "headline" in results:
            return _rows(results)
        return {  # of nmg generation: a table for each number of pairs
            f"{name}, {count if count != '0' else 'all'} pairs": value
            for count, table in results["pairs"].items()
            for name, value in _rows(table).items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged (no table of results); the run's own command writes it anew."
        ) from error


def _rows(table: Mapping[str, Any]) -> dict[str, str]:
    headline = table["headline"]
    return {
        f"{row['masking']} ({headline})": number(
            _number(row["means"][headline]), _number(row["deviations"][headline])
        )
        for row in table["rows"]
    }


def _number(value: float | None) -> float:
    """What JSON has null for is not a number."""
    return float("nan") if value is None else value


def _columns(first: str, names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    if not rows:
        return f"No {first} differs."
    table = [[first, *names], *([name, *values] for name, values in rows.items())]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
