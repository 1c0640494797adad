"""The end of meta-training: choose a checkpoint, compare it on fresh deals, write the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.adaptation.jobs import Executor
from envs.folders import write_text
from envs.references import Policy
from envs.world import Deal
from nmg.assembly import Setup, learned_metric
from nmg.checkpoint import chosen_checkpoint, how_chosen
from nmg.comparison import RANDOM, ComparisonTable, as_json, tabulate
from nmg.comparison_text import as_text, control_verdicts, with_interval
from nmg.config import TrainingConfig
from nmg.evaluation import Greedy, evaluate, observe, seed_of
from nmg.forecast import amount, duration
from nmg.maskings import controls, load_policy, measured, strategy
from nmg.report.charts import line_chart
from nmg.report.page import Section, comparison_sections, settings_sections, write_report
from nmg.run_log import read_records

POLICY = "policy"


def finish(config: TrainingConfig, folder: Path, on: Setup, executor: Executor) -> None:
    """Print the table and write results.json and report.html.

    Args:
        config: of the run.
        folder: of the run.
        on: world and task.
        executor: scores the final comparison.
    """
    started = time.perf_counter()
    checkpoint = chosen_checkpoint(folder)
    table = None
    if config.run.final_episodes:
        table = compare_at_the_end(config, checkpoint, folder, on, executor)
        write_text(folder / "results.json", json.dumps(as_json(table), indent=2) + "\n")
        print("\n" + as_text(table) + "\n")
    records = read_records(folder / "metrics.jsonl")
    # All of the run's, however often it was resumed.
    seconds = sum(episode["seconds"] for episode in read_records(folder / "times.jsonl"))
    seconds += time.perf_counter() - started
    metric, _ = learned_metric(config, on.task)
    write_training_report(config, folder, checkpoint, records, metric, table, seconds)
    print(f"Policy: {checkpoint} ({how_chosen(checkpoint)})")
    print(f"Report: {folder / 'report.html'}")


def compare_at_the_end(
    config: TrainingConfig, checkpoint: Path, folder: Path, on: Setup, executor: Executor
) -> ComparisonTable:
    """The chosen policy against random, its null controls, the rivals and the best mask."""
    deals = final_deals(config, on)
    learned, fixed = learned_maskings(config, checkpoint, folder, on), fixed_maskings(config, on)
    first = {POLICY: learned[POLICY], RANDOM: fixed[RANDOM]}
    scores = evaluate(
        on.world,
        deals,
        first | learned | fixed,
        executor,
        budget=config.episode.budget,
        settings=config.adaptation,
        run=config.run.seed,
    )
    headline, better = learned_metric(config, on.task)
    return tabulate(scores, headline=headline, higher_is_better=better, unit="episodes")


def final_deals(config: TrainingConfig, on: Setup) -> list[Deal]:
    """What the maskings are compared on at the end; no episode gets them."""
    count = config.run.final_episodes
    return [on.world.deal(seed_of(config.run.seed, "final", n)) for n in range(count)]


def learned_maskings(
    config: TrainingConfig, checkpoint: Path, folder: Path, on: Setup
) -> dict[str, Policy | None]:
    """The policy of a checkpoint and its null controls, as they are played."""
    world: Any = on.world
    policy = load_policy(checkpoint, on.states, world.vocab_size)
    fresh = world.deal(seed_of(config.run.seed, "measure", 0))
    seen = measured(observe(world, fresh, config.episode.budget))
    controlled = controls(POLICY, folder, policy, on.states, world.vocab_size, seen)
    maskings = {POLICY: Greedy(policy), **controlled}
    return {name: on.played(masking) for name, masking in maskings.items()}


def fixed_maskings(config: TrainingConfig, on: Setup) -> dict[str, Policy | None]:
    """Random masking, the rivals and the best mask, as they are played."""
    from envs.testbed import best_mask

    world: Any = on.world
    contexts = [context for deal in final_deals(config, on) for context in deal.contexts]
    maskings = {name: strategy(name, on, contexts) for name in config.run.rivals}
    if config.data.task == "testbed":
        maskings["best mask"] = best_mask(world)
    played = {name: on.played(masking) for name, masking in maskings.items()}
    return {RANDOM: on.random} | played


def write_training_report(
    config: TrainingConfig,
    folder: Path,
    checkpoint: Path,
    records: Sequence[Mapping[str, Any]],
    metric: str,
    table: ComparisonTable | None,
    seconds: float,
) -> None:
    """Curves of the metric, table and settings on one page."""
    sections = comparison_sections(table, "After training: fresh deals") if table else []
    sections += _curves(records, metric, int(checkpoint.name), compared=table is not None)
    sections += settings_sections(config)
    tokens = sum(sum(cost.values()) for record in records for cost in _token_costs(record))
    facts = {
        "episodes": len(records),
        "tokens through the language model": amount(tokens),
        "wall time": duration(seconds),
        f"checkpoint, {how_chosen(checkpoint)}": checkpoint.name,
    }
    data = config.data
    title = f"Meta-training: {Path(data.dataset).name}, {Path(data.model).name}, seed "
    write_report(
        folder / "report.html", title + str(config.run.seed), _lead(table), facts, sections
    )


def _token_costs(record: Mapping[str, Any]) -> list[dict[str, int]]:
    return [
        {name: n for name, n in cost.items() if name.endswith("_tokens")}
        for cost in record["cost"].values()
    ]


def _lead(table: ComparisonTable | None) -> str:
    if table is None:
        return "No comparison was made at the end; nmg test makes one on the test split."
    versus = next(row.versus for row in table.rows if row.name == POLICY)
    assert versus is not None
    pairs, unit = table.pairs
    over = f"{pairs} paired {unit}" if pairs > 1 else f"one {unit.rstrip('s')}"
    return (
        f"Against random masking, over {over}: {versus.verdict} ({table.headline} "
        f"{with_interval(versus, 3)}, at 95%). {control_verdicts(table)}"
    ).strip()


def _curves(
    records: Sequence[Mapping[str, Any]], metric: str, chosen: int, *, compared: bool
) -> list[Section]:
    sections = []
    if any("informative" in record for record in records):
        shares = {
            name: smooth(
                [(r["episode"] + 1, r["informative"].get(name)) for r in records], window=5
            )
            for name in ("agent", "random")
            if name in records[0]["informative"]
        }
        chart = line_chart(
            shares, "episode", "share of masked tokens that are informative", marks=_mark(chosen)
        )
        text = "What the agent masks while it explores, mean of five episodes"
        text += "; the policy by itself is in the table above." if compared else "."
        sections.append(Section("What is masked", text, chart))
    rival = next((name for name in ("random", "opponent") if _gap(records, name, metric)), None)
    if rival is not None:
        gaps = smooth(_gap(records, rival, metric), window=5)
        chart = line_chart({f"agent - {rival}": gaps}, "episode", metric, marks=_mark(chosen))
        text = (
            f"Difference in {metric} on the same data with the same seeds, mean of five episodes."
        )
        sections.append(Section(f"Episodes: agent against {rival}", text, chart))
    gains = [
        (record["episode"] + 1, gain)
        for record in records
        if (gain := record.get("validation", {}).get("gain")) is not None
    ]
    if len(gains) > 1:
        text = "Gain of the policy over random on fixed deals of the training data."
        chart = line_chart({"gain": gains}, "episode", "gain over random", marks=_mark(chosen))
        sections.append(Section("Choosing the checkpoint", text, chart))
    return sections


def _mark(chosen: int) -> list[tuple[float, str]]:
    return [(float(chosen), "chosen")]


def _gap(
    records: Sequence[Mapping[str, Any]], rival: str, metric: str
) -> list[tuple[float, float]]:
    """Difference to a rival, by episode; only where it played and both scores are numbers."""
    scores = [
        (record["episode"] + 1, *(record["score"].get(n, {}).get(metric) for n in ("agent", rival)))
        for record in records
    ]
    return [(at, mine - its) for at, mine, its in scores if mine is not None and its is not None]


def smooth(points: Sequence[tuple[float, float | None]], window: int) -> list[tuple[float, float]]:
    """Running means over up to ``window`` points; points without a value are left out."""
    known = [(x, y) for x, y in points if y is not None]
    means = []
    for i, (x, _) in enumerate(known):
        last = [y for _, y in known[max(0, i + 1 - window) : i + 1]]
        means.append((x, sum(last) / len(last)))
    return means
