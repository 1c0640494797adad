"""One self-contained HTML file: tables, charts and the settings that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmg.comparison import ComparisonTable, by_likelihood
from nmg.comparison_text import cells, control_cells, decimals, reading
from nmg.limits import OF_TEXT
from nmg.options import differences, flatten
from nmg.report.charts import interval_chart


@dataclass(frozen=True)
class Section:
    """A titled part of a report.

    Attributes:
        title: its heading.
        text: a paragraph under it.
        chart: inline SVG, or nothing.
        header, rows: a table, or nothing; a row's last cell may be a verdict.
        folded: shown closed, to be opened by the reader.
    """

    title: str
    text: str = ""
    chart: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    folded: bool = False


def write_report(
    path: Path, title: str, lead: str, facts: Mapping[str, Any], sections: Sequence[Section]
) -> None:
    """Write a report, atomically.

    Args:
        path: where to.
        title: of the page.
        lead: what was found, in a sentence or two.
        facts: a few key figures, shown large.
        sections: the rest, in order.
    """
    import jinja2

    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        title=title, lead=lead, facts=facts, sections=sections
    )
    part = path.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)


def comparison_sections(table: ComparisonTable, title: str) -> list[Section]:
    """The table, its intervals as a picture, and every single score, folded."""
    header, rows = cells(table)
    pairs, unit = table.pairs
    single = []
    for row in table.rows:
        digits = decimals(row.means[table.headline])
        scores = [f"{pair[table.headline]:.{digits}f}" for pair in table.scores[row.name]]
        single.append([row.name, *scores])
    likelihood = by_likelihood(table)
    more = []
    if likelihood is not None:
        more = [Section("By likelihood", "", interval_chart(likelihood), *cells(likelihood))]
    contrasts = control_cells(table)
    if contrasts[1]:
        text = "Better: the policy gains what its control does not."
        more.append(Section("Policies against their null controls", text, "", *contrasts))
    return [
        Section(title, reading(table), interval_chart(table), header, rows),
        *more,
        Section(
            f"Every score ({table.headline})",
            header=["masking", *(f"{unit.rstrip('s')} {i + 1}" for i in range(pairs))],
            rows=single,
            folded=True,
        ),
    ]


def settings_sections(config: Any) -> list[Section]:
    """What differs from the defaults, and everything; on the testbed without what is of text."""
    idle = OF_TEXT if config.data.task == "testbed" else ()
    everything = {name: value for name, value in flatten(config).items() if name not in idle}
    return [
        settings_section("Settings that differ from the defaults", differences(config)),
        settings_section("All settings", everything),
    ]


def settings_section(title: str, settings: Mapping[str, Any]) -> Section:
    """Settings as a folded two-column table."""
    rows = [[str(name), str(value)] for name, value in settings.items()]
    return Section(title, header=["setting", "value"], rows=rows, folded=True)
