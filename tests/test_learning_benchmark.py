"""The comparison of learners: what counts as reached, and tables and plot from result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def report(monkeypatch):
    pytest.importorskip("sb3_contrib")
    monkeypatch.syspath_prepend(str(FOLDER))
    from learning_parts import report

    return report


def points(*informative: float) -> list[dict[str, float]]:
    episodes = (1, 5, 10, 20)
    return [
        {"episode": e, "cpu": float(e), "informative": s, "closed": s if e > 5 else None}
        for e, s in zip(episodes, informative, strict=True)
    ]


def test_a_lucky_point_alone_does_not_count_as_reached(report) -> None:
    run = {"points": points(0.9, 0.4, 0.9, 0.95)}
    found = report.reached(run, 0.8, lambda point: point["informative"])
    assert found["episode"] == 10
    assert report.reached(run, 0.97, lambda point: point["informative"]) is None
    falls = {"points": points(0.4, 0.9, 0.4, 0.95)}
    assert report.reached(falls, 0.8, lambda point: point["informative"])["episode"] == 20


def test_the_closed_part_by_words_is_none_at_chance_and_all_at_one(report) -> None:
    assert report.by_words({"informative": 1 / 3}, "standard") == pytest.approx(0.0)
    assert report.by_words({"informative": 1.0}, "standard") == pytest.approx(1.0)


def test_tables_and_plot_come_from_the_files_and_leave_the_page_around_them(
    report, tmp_path
) -> None:
    pytest.importorskip("matplotlib")
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    for seed, last in enumerate((0.95, 0.99)):
        run = {"row": "default", "seed": seed, "episodes": 20, "deals": 2}
        run["points"] = points(0.3, 0.5, 0.9, last)
        path = results / f"standard-default-{seed}.json"
        path.write_text(json.dumps(run), encoding="utf-8")
        run = {**run, "row": "sign", "points": points(0.3, 0.5, 0.4, last - 0.6 - 0.02 * seed)}
        path = results / f"standard-sign-{seed}.json"
        path.write_text(json.dumps(run), encoding="utf-8")
    page = docs / "results.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        text = report.write(results, "standard", docs)
    assert "| default agent | 2 |" in text
    assert "96% (92% to 98%)" in text
    assert "| -91% [-111%, -72%]: worse |" in text
    written = page.read_text(encoding="utf-8")
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    assert written.count("| default agent |") == 1
    assert (docs / "learning.png").stat().st_size > 1000


def test_the_plot_gives_every_row_a_colour_and_its_name_beside_the_curves(
    report, tmp_path, monkeypatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn = []
    monkeypatch.setattr(figure, "savefig", lambda self, *_, **__: drawn.append(self))
    runs = {row.name: [{"points": points(0.3, 0.5, 0.9, 0.95)}] for row in report.ROWS}
    report.plot(runs, "standard", tmp_path / "learning.png")
    drawn[0].draw_without_rendering()
    for axis in drawn[0].axes:
        colours = [line.get_color() for line in axis.get_lines() if line.get_marker() == "."]
        assert len(set(colours)) == len(colours) > 3
        assert axis.get_legend().get_window_extent().x0 >= axis.get_window_extent().x1
        assert not any("$" in label.get_text() for label in axis.get_xticklabels(which="both"))
