"""The results as Markdown tables and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from report_tables import spread, table

from envs.testbed.settings import settings_named
from learning_parts.rows import ROWS, Row
from nmg.statistics import compare

BEGIN, END = "<!-- learning: written by benchmarks/learning.py -->", "<!-- end of learning -->"
COMMON = 20
"""Episodes after which all rows are compared."""
Run = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]
GROUPS = {
    "agent": "agents",
    "ingredient": "the default agent with one thing changed",
    "other": "other learners, with the default agent's description of tokens",
}


def write(results: Path, setting: str, folder: Path) -> str:
    """Write the plot, and the tables between the marks of ``results.md``; give the tables."""
    runs = read(results, setting)
    text = tables(runs, setting)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "results.md"
    whole = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, after = whole.partition(BEGIN)[0], whole.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    plot(runs, setting, folder / "learning.png")
    return text


def read(results: Path, setting: str) -> dict[str, list[Run]]:
    """The finished runs of each row that has any, by seed."""
    runs: dict[str, list[Run]] = {}
    for row in ROWS:
        paths = results.glob(f"{setting}-{row.name}-*.json")
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        found = [run for run in found if run["row"] == row.name]
        if found:
            runs[row.name] = sorted(found, key=lambda run: run["seed"])
    return runs


def by_words(point: Mapping[str, Any], setting: str) -> float:
    """Closed part of the gap in informative tokens between chance and all."""
    chance = settings_named(setting).informative_share
    return (point["informative"] - chance) / (1 - chance)


def by_score(point: Mapping[str, Any]) -> float | None:
    """Closed part of the gap in likelihood between random and best mask, where it was measured."""
    return point["closed"]


def reached(run: Run, share: float, measure: Callable[[Any], float | None]) -> Any:
    """The first point from which on two in a row closed at least ``share``, or ``None``.

    One point alone may be luck: an untrained direction of the embeddings can be a good one.
    """
    measured = [(point, value) for point in run["points"] if (value := measure(point)) is not None]
    for (point, value), (_, following) in zip(measured, measured[1:] + measured[-1:], strict=True):
        if min(value, following) >= share:
            return point
    return None


def tables(runs: Runs, setting: str) -> str:
    """All of it, as Markdown: one table a group of rows."""
    lines = [_about(runs), ""]
    for group, title in GROUPS.items():
        rows = [row for row in ROWS if row.group == group and row.name in runs]
        if rows:
            lines += [f"**{title[0].upper()}{title[1:]}**", ""]
            lines += table([_head(), *(_cells(row, runs, setting) for row in rows)])
            lines += [""]
    return "\n".join(lines)


def _about(runs: Runs) -> str:
    deals = sorted({run["deals"] for found in runs.values() for run in found})
    seeds = sorted({run["seed"] for found in runs.values() for run in found})
    return (
        f"Seeds {', '.join(map(str, seeds))}; median (lowest to highest) over them; "
        f"{', '.join(map(str, deals))} held-out domains, the same for all. *Words*: share of "
        "informative tokens, as part of the way from chance to all; *score*: likelihood, as part "
        "of the way from random to best mask. *Episodes to*: the first measured one at which that "
        "part is reached and at the next one too; `-` if a run never reached it. *Against the "
        "default agent*: mean paired difference over the seeds of both, Student's interval, not "
        "corrected for the number of rows. Seconds are processor seconds of one core, judging left "
        "out."
    )


def _head() -> list[str]:
    return [
        "",
        "runs",
        f"words, after {COMMON}",
        f"score, after {COMMON}",
        f"words, after {COMMON}, against the default agent [95%]",
        "episodes",
        "words, at the end",
        "score, at the end",
        "episodes to 50% (words)",
        "to 80% (words)",
        "to 80% (score)",
        "seconds to 80% (words)",
        "seconds an episode",
    ]


def _cells(row: Row, runs: Runs, setting: str) -> list[str]:
    found = runs[row.name]

    def words(point: Any) -> float:
        return by_words(point, setting)

    last = [run["points"][-1] for run in found]
    common = [point for run in found for point in run["points"] if point["episode"] == COMMON]
    length = [run["episodes"] for run in found]
    return [
        row.says,
        str(len(found)),
        spread([words(point) for point in common], "{:.0%}"),
        spread([point["closed"] for point in common], "{:.0%}"),
        _against_default(row, runs, words),
        str(length[0]) if len(set(length)) == 1 else f"{min(length)} to {max(length)}",
        spread([words(point) for point in last], "{:.0%}"),
        spread([point["closed"] for point in last], "{:.0%}"),
        _first(found, 0.5, words, "episode"),
        _first(found, 0.8, words, "episode"),
        _first(found, 0.8, by_score, "episode"),
        _first(found, 0.8, words, "cpu"),
        spread([p["cpu"] / n for p, n in zip(last, length, strict=True)], "{:.2f}"),
    ]


def _against_default(row: Row, runs: Runs, measure: Callable[[Any], float]) -> str:
    """Paired difference over the seeds that both have, with Student's interval and verdict."""

    def by_seed(name: str) -> dict[int, float]:
        return {
            run["seed"]: measure(point)
            for run in runs.get(name, ())
            for point in run["points"]
            if point["episode"] == COMMON
        }

    own, default = by_seed(row.name), by_seed("default")
    shared = sorted(own.keys() & default.keys())
    if row.name == "default" or len(shared) < 2:
        return ""
    c = compare([own[seed] for seed in shared], [default[seed] for seed in shared])
    return f"{c.difference:+.0%} [{c.low:+.0%}, {c.high:+.0%}]: {c.verdict}"


def _first(
    found: Sequence[Run], share: float, measure: Callable[[Any], float | None], what: str
) -> str:
    points = [reached(run, share, measure) for run in found]
    values = [math.inf if point is None else point[what] for point in points]
    missing = sum(point is None for point in points)
    text = spread(values, "{:.0f}").replace("inf", "-")
    return text if not missing or missing == len(points) else f"{text}, {missing} never"


def plot(runs: Runs, setting: str, path: Path) -> None:
    """Closed part of the gap against episodes and seconds; lines are medians, bands ranges."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    learners = [row for row in ROWS if row.group != "ingredient" and row.name in runs]
    changed = [row for row in ROWS if row.group != "other" and row.name in runs]
    changed = [row for row in changed if row.name != "paper"]

    def words(point: Any) -> float:
        return by_words(point, setting)

    panels = (
        (axes[0][0], learners, words, "episode", "words, by episodes"),
        (axes[0][1], learners, words, "cpu", "words, by processor seconds"),
        (axes[1][0], learners, by_score, "episode", "score, by episodes"),
        (axes[1][1], changed, words, "episode", "words: the default agent with one thing changed"),
    )
    for axis, rows, measure, across, title in panels:
        axis.set_prop_cycle(color=colormaps["tab20"].colors)
        for number, row in enumerate(rows):
            _curve(axis, runs[row.name], measure, across, row.name, number)
        axis.axhline(1, color="grey", linewidth=0.8, linestyle="dotted")
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(-0.6, 1.15)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("processor seconds" if across == "cpu" else "episodes")
        axis.set_ylabel("closed part of the gap")
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def _curve(
    axis: Any,
    found: Sequence[Run],
    measure: Callable[[Any], float | None],
    across: str,
    name: str,
    number: int,
) -> None:
    """Median and range over seeds at the points that all runs have."""
    lines = [
        {
            point["episode"]: (point[across], value)
            for point in run["points"]
            if (value := measure(point)) is not None
        }
        for run in found
    ]
    shared = sorted(set.intersection(*(set(line) for line in lines)))
    at = [median(line[episode][0] for line in lines) for episode in shared]
    heights = [[line[episode][1] for line in lines] for episode in shared]
    style = "solid" if number < 10 else "dashed"
    (drawn,) = axis.plot(at, [median(h) for h in heights], marker=".", label=name, linestyle=style)
    if number < 3:  # more bands than that hide each other
        low, high = [min(h) for h in heights], [max(h) for h in heights]
        axis.fill_between(at, low, high, alpha=0.15, color=drawn.get_color(), linewidth=0)
