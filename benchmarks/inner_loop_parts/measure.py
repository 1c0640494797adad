"""One case (a model, a task) measured on all sides, and what is measured on ours alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from inner_loop_parts.clock import Step
from inner_loop_parts.limit import needed
from inner_loop_parts.sides import AGENTS, RATE, Side
from inner_loop_parts.workload import STAGES, Workload

Say = Callable[[str], None]


def measure_case(
    workload: Workload,
    model: dict[str, int],
    sides: Sequence[str],
    *,
    steps: dict[str, int],
    repeats: int,
    device: str,
    say: Say,
) -> dict[str, Any]:
    """Alternate the sides on one job.

    Args:
        steps: by side, batches of each stage to measure and scale by; 0 runs the whole job.

    Returns:
        By side: ``stages``: (wall, cpu) seconds of the whole job by stage, one pair a repeat;
        ``memory``: MB before and at most. ``rates`` and ``needed`` give the limit.
    """
    running: dict[str, Side] = {}
    rate = Side(RATE, None, device)
    result: dict[str, Any] = {"needed": needed(workload, model), "rates": [], "sides": {}}
    try:
        rate.ask("open")
        for repeat in range(repeats):
            result["rates"].append({p: rate.ask("rate", p) for p in ("fp32", "bf16")})
            for name in _rotated(list(sides), repeat):
                if repeat == 0:
                    say(f"  {name} warms up")
                    running[name] = Side(name, workload, device)
                    result["sides"][name] = _warm(running[name], workload, bool(steps[name]))
                part = workload.cut(steps[name] + 1) if steps[name] else workload
                measured, memory = running[name].ask("run", part)
                scale = "steps" if name == "plain" else "tokens"
                whole = scaled(measured, workload, scale) if steps[name] else summed(measured)
                result["sides"][name]["stages"].append(whole)
                result["sides"][name]["memory"][1] = memory
                total = sum(cpu for _, cpu in whole.values())
                say(f"  repeat {repeat + 1}: {name} {total:.2f} s of processor time")
                if repeat + 1 == repeats:  # its memory, before another large model is opened
                    running.pop(name).close()
    finally:
        for side in (*running.values(), rate):
            side.close()
    return result


def _warm(side: Side, workload: Workload, is_scaled: bool) -> dict[str, Any]:
    opened = side.ask("open")
    small = workload.cut(1)
    found = {
        "stages": [],
        "memory": [opened, opened],
        "scaled": is_scaled,
        "first_loss": side.ask("first_loss", small),
    }
    # A process runs thousands of jobs; its first, which fetch memory, are not what a job costs.
    for _ in range(2):
        side.ask("run", small if is_scaled else workload)
    return found


def measure_agents(
    workload: Workload,
    sides: Sequence[str],
    *,
    steps: int,
    repeats: int,
    device: str,
    say: Say,
) -> dict[str, list[dict[str, tuple[float, float]]]]:
    """By side, seconds (wall, cpu) of what an episode is beside its score jobs, once a repeat."""
    running: dict[str, Side] = {}
    found: dict[str, list[dict[str, tuple[float, float]]]] = {}
    try:
        for name in [name for name in sides if name in AGENTS]:
            say(f"  {AGENTS[name]} fills its memory")
            running[name] = Side(AGENTS[name], workload, device)
            running[name].ask("open")
            found[name] = []
        for repeat in range(repeats):
            for name in _rotated(list(running), repeat):
                found[name].append(running[name].ask("agent", steps))
    finally:
        for side in running.values():
            side.close()
    return found


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def summed(steps: Sequence[Step]) -> dict[str, tuple[float, float]]:
    """Seconds (wall, cpu) of each stage."""
    totals = dict.fromkeys(STAGES, (0.0, 0.0))
    for step in steps:
        wall, cpu = totals[step.stage]
        totals[step.stage] = (wall + step.wall, cpu + step.cpu)
    return totals


def scaled(steps: Sequence[Step], workload: Workload, scale: str) -> dict[str, tuple[float, float]]:
    """Seconds of the whole job from a few steps of it; the first of a stage warms up.

    Args:
        scale: ``steps`` where every step costs the same (all is padded), else ``tokens``.
    """
    totals = dict.fromkeys(STAGES, (0.0, 0.0))
    for stage, batches in workload.batches().items():
        found = [step for step in steps if step.stage == stage]
        kept = found[1:] or found
        part = sum(step.tokens for step in kept) if scale == "tokens" else len(kept)
        whole = sum(workload.tokens(stage, rows) for rows in batches)
        factor = (whole if scale == "tokens" else len(batches)) / part
        totals[stage] = (
            factor * sum(step.wall for step in kept),
            factor * sum(step.cpu for step in kept),
        )
    once = [step for step in steps if step.stage not in workload.batches()]
    return totals | summed_once(once)


def summed_once(steps: Sequence[Step]) -> dict[str, tuple[float, float]]:
    """Stages that are done once, as they were measured."""
    return {step.stage: (step.wall, step.cpu) for step in steps}


def measure_linearity(workload: Workload, device: str, repeats: int) -> dict[str, Any]:
    """Processor seconds of our job against the number of contexts and of questions.

    Returns:
        For each: ``points`` (number, tokens, seconds), ``slope`` (seconds each), ``r2``.
    """
    side = Side("fp32", workload, device)
    try:
        side.ask("open")
        side.ask("run", workload.cut(1))
        job = workload.job
        few = replace(job, train=job.train[:8], score=job.score[:8])
        found = {}
        for name, count in (("contexts", len(job.contexts)), ("questions", len(job.train))):
            points = []
            for share in (0.25, 0.5, 0.75, 1.0):
                n = int(share * count)
                part = (
                    replace(few, contexts=job.contexts[:n], masks=(job.masks or [])[:n])
                    if name == "contexts"
                    else replace(job, masks=None, train=job.train[:n], score=job.score[:n])
                )
                runs = [
                    side.ask("run", replace(workload, job=part))[0] for _ in range(max(2, repeats))
                ]
                points.append((n, float(np.median([sum(s.cpu for s in run) for run in runs]))))
            found[name] = {"points": points, **_line(points)}
        return found
    finally:
        side.close()


def _line(points: Sequence[tuple[int, float]]) -> dict[str, float]:
    x, y = np.array(points).T
    slope, offset = np.polyfit(x, y, 1)
    left = ((y - slope * x - offset) ** 2).sum()
    return {"slope": float(slope), "r2": float(1 - left / ((y - y.mean()) ** 2).sum())}


def measure_cores(workload: Workload, precision: Any, repeats: int) -> dict[str, Any]:
    """Wall seconds of score jobs on one worker process and on two.

    Three jobs are one episode (player, opponent, random): on two workers they take two rounds. Six
    are two episodes, submitted at once, as an off-policy agent may.
    """
    from inner_loop_parts.ours import ScorerOf
    from nmg.executors import ProcessExecutor

    found: dict[str, Any] = {}
    for workers in (1, 2):
        with ProcessExecutor(ScorerOf(workload, precision), workers) as executor:
            small = [replace(workload.cut(1).job, seed=n) for n in range(workers)]
            for future in [executor.submit(job) for job in small]:
                future.result()
            for jobs in (3, 6):
                seconds = []
                for repeat in range(repeats):
                    start = time.perf_counter()
                    seeds = range(100 * repeat, 100 * repeat + jobs)
                    submitted = [executor.submit(replace(workload.job, seed=n)) for n in seeds]
                    for future in submitted:
                        future.result()
                    seconds.append(time.perf_counter() - start)
                found[f"{jobs} jobs on {workers}"] = seconds
    return found


def measure_two_rates(device: str) -> dict[str, Any]:
    """Rate of products of one process alone, and of two at the same time together."""
    pair = [Side(RATE, None, device) for _ in range(2)]
    try:
        for side in pair:
            side.ask("open")
        found: dict[str, Any] = {}
        for precision in ("fp32", "bf16"):
            alone = pair[0].ask("rate", precision)["wall"]
            for side in pair:
                side.send("rate", precision)
            together = sum(side.receive()["wall"] for side in pair)
            found[precision] = {"one": alone, "two": together}
        return found
    finally:
        for side in pair:
            side.close()
