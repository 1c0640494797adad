"""The report of a comparison on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nmg.comparison import ComparisonTable
from nmg.comparison_text import control_verdicts
from nmg.config import TestingConfig
from nmg.forecast import duration
from nmg.report.page import comparison_sections, settings_section, settings_sections, write_report


def write_testing_report(
    folder: Path,
    config: TestingConfig,
    about: str,
    table: ComparisonTable,
    policies: Mapping[str, str],
    seconds: float,
) -> None:
    """Write ``report.html``: verdicts, table, every score, settings."""
    data = config.data
    pairs, unit = table.pairs
    facts = {
        unit: pairs,
        "maskings": len(table.rows),
        "score jobs": pairs * (len(table.rows) + config.comparison.random_draws - 1),
        "wall time": duration(seconds),
    }
    sections = comparison_sections(table, "Scores on the test split")
    if policies:
        sections.append(settings_section("Policies", policies))
    sections += settings_sections(config)
    write_report(
        folder / "report.html",
        f"Meta-testing: {Path(data.dataset).name}, {Path(data.model).name}",
        f"{about} {_verdicts(table)}",
        facts,
        sections,
    )


def _verdicts(table: ComparisonTable) -> str:
    groups: dict[str, list[str]] = {}
    for row in table.rows:
        if row.versus is not None:
            groups.setdefault(row.versus.verdict, []).append(row.name)
    parts = [f"{verdict}: {', '.join(names)}" for verdict, names in groups.items()]
    against_random = "Against random masking, " + "; ".join(parts) + "." if parts else ""
    return f"{against_random} {control_verdicts(table)}".strip()
