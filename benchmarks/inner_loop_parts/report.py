"""The results as Markdown tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from report_tables import spread, table

from inner_loop_parts.workload import EVALUATION, FINETUNING, PRETRAINING, RELOAD, STAGES

BEGIN, END = "<!-- results: written by benchmarks/inner_loop.py -->", "<!-- end of results -->"
NAMES = {
    "plain": "plain: the original's way",
    "common": "common: `Trainer`, dynamic padding, sdpa",
    "fp32": "ours, float32",
    "bf16": "ours, bfloat16",
}
CPU, WALL = 1, 0
JOBS = 3
"""Of an episode."""


def write(results: Mapping[str, Any], folder: Path) -> str:
    """Write the plot, and the tables between the marks of ``performance.md``; give the tables."""
    text = tables(results)
    page = folder / "performance.md"
    whole = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    before, after = whole.partition(BEGIN)[0], whole.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    plot(results, folder / "performance.png")
    return text


def tables(results: Mapping[str, Any]) -> str:
    """All of it, as Markdown."""
    machine, jobs = results["machine"], results["jobs"]
    lines = [
        f"`{results['command']}`: {results['minutes']:.0f} minutes on {machine['processor']}, "
        f"{machine['cores']} cores, {machine['gpu'] or 'no GPU'}; torch {machine['torch']}, "
        f"transformers {machine['transformers']}; attention in {_code(machine['native'])}; "
        f"load {machine['load']} when it ended. "
        f"Data: {results['data']}; {jobs['contexts']} contexts, {jobs['questions']} + "
        f"{jobs['questions']} examples.",
        "",
    ]
    for case in results["cases"]:
        lines += [f"### {case['size']}, {case['task']}", "", *_case(case), ""]
    lines += _extras(results["extras"])
    return "\n".join(lines)


def _code(instructions: str | None) -> str:
    return f"C ({instructions})" if instructions else "torch's operations"


def seconds(side: Mapping[str, Any], stage: str | None, kind: int) -> list[float]:
    """Of a stage, or of the whole job, one number a repeat."""
    return [
        sum(times[kind] for name, times in stages.items() if stage in (None, name))
        for stages in side["stages"]
    ]


def ratios(case: Mapping[str, Any], side: str, stage: str | None, kind: int) -> list[float]:
    """Plain over a side, repeat by repeat."""
    ours = seconds(case["sides"][side], stage, kind)
    return [
        a / b for a, b in zip(seconds(case["sides"]["plain"], stage, kind), ours, strict=True) if b
    ]


def limit(case: Mapping[str, Any], precision: str, stage: str | None = None) -> list[float]:
    """Seconds that the arithmetic alone takes, one number a repeat."""
    operations = sum(n for name, n in case["needed"].items() if stage in (None, name))
    return [operations / 1e9 / rates[precision]["cpu"] for rates in case["rates"]]


def _case(case: Mapping[str, Any]) -> list[str]:
    found, sides = case["sides"], list(case["sides"])
    rows = [
        ["processor seconds of one job", *STAGES, "whole", "peak MB", "first loss"],
        *(
            [
                NAMES[name] + (" (scaled)" if found[name]["scaled"] else ""),
                *(_number(median(seconds(found[name], stage, CPU))) for stage in STAGES),
                _number(median(seconds(found[name], None, CPU))),
                f"{found[name]['memory'][1]:.0f}",
                f"{found[name]['first_loss']:.6f}",
            ]
            for name in sides
        ),
        *(
            [
                f"limit, {precision}: {_rate(case, precision)}",
                *(
                    "" if stage == RELOAD else _number(median(limit(case, precision, stage)))
                    for stage in STAGES
                ),
                _number(median(limit(case, precision))),
                "",
                "",
            ]
            for precision in ("fp32", "bf16")
        ),
    ]
    lines = table(rows)
    if "plain" in sides and len(sides) > 1:
        lines += ["", *table(_ratio_rows(case, sides))]
    shares, at_most = [], []
    for precision in ("fp32", "bf16"):
        if precision in sides:
            spent = seconds(found[precision], None, CPU)
            reached = [a / b for a, b in zip(limit(case, precision), spent, strict=True)]
            shares.append(f"{precision} {spread(reached, '{:.0%}')}")
        if "plain" in sides:
            spent = seconds(found["plain"], None, CPU)
            ratio = median(a / b for a, b in zip(spent, limit(case, precision), strict=True))
            at_most.append(f"{precision} {_number(ratio)}")
    if shares:
        lines += ["", f"Share of the limit that ours reaches: {', '.join(shares)}."]
    if at_most:
        lines += [f"The limit itself is so many times faster than plain: {', '.join(at_most)}."]
    if case.get("agents"):
        lines += ["", *table(_episode_rows(case))]
    return lines


def episodes(case: Mapping[str, Any], side: str, kind: int) -> list[float]:
    """Seconds of whole episodes, one a repeat: the jobs of player, opponent and random masks, and
    what else there is."""
    jobs = seconds(case["sides"][side], None, kind)
    return [JOBS * job + rest for job, rest in zip(jobs, rests(case, side, kind), strict=True)]


def rests(case: Mapping[str, Any], side: str, kind: int) -> list[float]:
    """Seconds of what an episode is beside its jobs, one a repeat."""
    return [sum(times[kind] for times in stages.values()) for stages in case["agents"][side]]


def _episode_rows(case: Mapping[str, Any]) -> list[list[str]]:
    rows = [["processor seconds of one episode", "three jobs", "masking and learning", "whole"]]
    rows[0] += ["times faster than plain", "by wall time"]
    for name in case["agents"]:
        jobs, rest = seconds(case["sides"][name], None, CPU), rests(case, name, CPU)
        row = [NAMES[name], _number(JOBS * median(jobs)), _number(median(rest))]
        row += [_number(median(episodes(case, name, CPU)))]
        if "plain" in case["agents"] and name != "plain":
            for kind in (CPU, WALL):
                pairs = zip(episodes(case, "plain", kind), episodes(case, name, kind), strict=True)
                row.append(spread([a / b for a, b in pairs], "{:.1f}"))
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    return rows


def _ratio_rows(case: Mapping[str, Any], sides: Sequence[str]) -> list[list[str]]:
    stages = (PRETRAINING, FINETUNING, EVALUATION)
    rows = [["times faster than plain", *stages, "whole", "whole, by wall time"]]
    for name in sides:
        if name != "plain":
            found = [spread(ratios(case, name, stage, CPU), "{:.1f}") for stage in stages]
            whole = [spread(ratios(case, name, None, kind), "{:.1f}") for kind in (CPU, WALL)]
            rows.append([NAMES[name], *found, *whole])
    return rows


def _rate(case: Mapping[str, Any], precision: str) -> str:
    ours, torchs = (
        median(rates[precision][kind] for rates in case["rates"]) for kind in ("cpu", "torch")
    )
    beside = f" (torch: {torchs:.0f})" if ours > 1.1 * torchs else ""
    return f"{ours:.0f} GFLOP/s{beside}"


def _extras(extras: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if "linearity" in extras:
        lines += [f"### Cost against size, {extras['size']}, qa, float32", ""]
        lines += [
            f"- {name}: {found['slope']:.4f} processor seconds each, R² = {found['r2']:.4f}"
            for name, found in extras["linearity"].items()
        ]
        lines += [""]
    if "cores" in extras:
        lines += [f"### Two cores, {extras['size']}, qa", "", *_cores(extras), ""]
    if "shares" in extras:
        lines += [f"### Where our time goes, {extras['size']}, qa", "", *_shares(extras), ""]
    if "testbed" in extras:
        found = extras["testbed"]
        lines += [
            f"A score job of the testbed takes {found['wall']:.2f} s on one core "
            f"({found['cpu']:.2f} s of processor time).",
            "",
        ]
    return lines


def _cores(extras: Mapping[str, Any]) -> list[str]:
    rows = [["wall seconds", "one worker", "two workers", "times faster", "of products at most"]]
    for precision, found in extras["cores"].items():
        rate = extras["rates"][precision]
        for jobs in ("3 jobs", "6 jobs"):
            one, two = found[f"{jobs} on 1"], found[f"{jobs} on 2"]
            faster = [a / b for a, b in zip(one, two, strict=True)]
            rows.append(
                [
                    f"{jobs}, {precision}",
                    _number(median(one)),
                    _number(median(two)),
                    spread(faster, "{:.2f}"),
                    f"{rate['two'] / rate['one']:.2f}",
                ]
            )
    return table(rows)


def _shares(extras: Mapping[str, Any]) -> list[str]:
    found = extras["shares"]
    kinds = list(dict.fromkeys(kind for shares in found.values() for kind in shares))
    rows = [["share of the time", *found]]
    for kind in kinds:
        rows.append([kind, *(f"{shares.get(kind, 0):.1%}" for shares in found.values())])
    return table(rows)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Processor seconds of every side, by stage, beside the limit; one panel a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = results["cases"]
    figure, axes = pyplot.subplots(
        1, len(cases), figsize=(3.2 * len(cases) + 1, 3.6), squeeze=False, layout="constrained"
    )
    for axis, case in zip(axes[0], cases, strict=True):
        names = [*case["sides"], "limit fp32", "limit bf16"]
        below = [0.0] * len(names)
        for stage in STAGES:
            height = [median(seconds(side, stage, CPU)) for side in case["sides"].values()]
            height += [median(limit(case, p, stage)) for p in ("fp32", "bf16")]
            axis.bar(names, height, bottom=below, label=stage)
            below = [a + b for a, b in zip(below, height, strict=True)]
        for x, total in enumerate(below):
            axis.annotate(_number(total), (x, total), ha="center", va="bottom", fontsize=8)
        axis.set_title(f"{case['size']}, {case['task']}", fontsize=10)
        axis.tick_params(axis="x", rotation=60, labelsize=8)
    axes[0][0].set_ylabel("processor seconds of one job")
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
