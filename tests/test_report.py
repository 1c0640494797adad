"""The comparison table and the report: right numbers, one file, nothing fetched, text escaped."""

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy import stats

from nmg import training_report
from nmg.comparison import as_json, tabulate
from nmg.comparison_text import as_text, reading
from nmg.config import TrainingConfig
from nmg.options import build
from nmg.report.charts import interval_chart, line_chart, ticks
from nmg.report.page import (
    Section,
    comparison_sections,
    settings_section,
    settings_sections,
    write_report,
)
from nmg.testing_report import _verdicts
from nmg.training_report import _curves, _lead


def table(pairs: int = 5):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=pairs)
    scores = {
        name: [{"f1": 70 + lift + n + 0.1 * rng.normal(), "nll": 1.0} for n in noise]
        for name, lift in (("policy <neural>", 2.0), ("random", 0.0), ("none", -2.0), ("idf", 0.02))
    }
    return tabulate(scores, headline="f1", higher_is_better=True)


def test_every_masking_gets_a_verdict_against_random():
    verdicts = {row.name: row.versus and row.versus.verdict for row in table().rows}
    assert verdicts == {
        "policy <neural>": "better",
        "random": None,
        "none": "worse",
        "idf": "no detectable difference",
    }


def test_the_printed_table_names_every_metric_and_says_how_to_read_it():
    text = as_text(table())
    for word in ("f1 ± sd", "nll ± sd", "better", "the reference", "5 seeds", "higher f1"):
        assert word in text
    assert "no interval" in as_text(table(1))


def test_an_interval_that_leaves_zero_out_shows_it():
    nll = {"random": 1.0, "policy": 0.9996}
    scores = {name: [{"nll": x + 1e-4 * s * (x < 1)} for s in range(5)] for name, x in nll.items()}
    (row,) = (
        line
        for line in as_text(tabulate(scores, headline="nll", higher_is_better=False)).splitlines()
        if line.startswith("policy")
    )
    assert "-0.0002000 [-0.0003963, -0.0000037]" in row
    assert "better" in row


def test_the_likelihood_has_a_verdict_of_its_own():
    scores = {
        name: [{"f1": 70.0, "nll": nll + 0.01 * seed} for seed in range(5)]
        for name, nll in (("policy", 0.9), ("random", 1.0))
    }
    scores["policy"][0]["nll"] += 0.001
    counted = tabulate(scores, headline="f1", higher_is_better=True)
    first, second = (part.splitlines() for part in as_text(counted).split("\n\n")[:2])
    assert "no detectable difference" in first[2]
    assert "better" in second[2]
    assert "nll - random" in second[0]
    (row, _) = as_json(counted)["likelihood"]
    assert row["versus_random"]["verdict"] == "better"
    alone = tabulate(scores, headline="nll", higher_is_better=False)
    assert "likelihood" not in as_json(alone)


def test_policies_are_compared_with_their_own_null_controls():
    """Both may be better than random while one is better than the other; scipy is the oracle."""
    rng = np.random.default_rng(2)
    noise = rng.normal(scale=0.1, size=10)
    means = {"policy": 1.60, "policy: untrained": 1.66, "policy: shuffled": 1.62, "random": 1.7}
    nll = {name: mean + noise + rng.normal(scale=0.02, size=10) for name, mean in means.items()}
    scores = {name: [{"f1": 70.0, "nll": x} for x in row] for name, row in nll.items()}
    counted = tabulate(scores, headline="f1", higher_is_better=True)
    found = {(c["control"], c["metric"]): c["versus"] for c in as_json(counted)["controls"]}
    assert set(found) == {
        (kind, metric) for kind in ("untrained", "shuffled") for metric in ("f1", "nll")
    }
    for control in ("untrained", "shuffled"):
        test = stats.ttest_rel(nll["policy"], nll[f"policy: {control}"]).confidence_interval(0.95)
        versus = found[control, "nll"]
        assert (versus["low"], versus["high"]) == pytest.approx((test.low, test.high))
    assert found["untrained", "nll"]["verdict"] == "better"
    alone = {name: [{"nll": x} for x in row] for name, row in nll.items()}
    for told in (_verdicts, _lead):
        lead = told(tabulate(alone, headline="nll", higher_is_better=False))
        assert (
            "Against their null controls, policy - untrained: better; policy - shuffled: " in lead
        )
    lines = as_text(counted).splitlines()
    (line,) = (line for line in lines if line.startswith("policy - untrained"))
    assert line.split()[-1] == "better"
    assert "no detectable difference" in line  # by f1
    (section,) = (
        part for part in comparison_sections(counted, "") if "null controls" in part.title
    )
    assert [row[0] for row in section.rows] == ["policy - untrained", "policy - shuffled"]
    assert "controls" not in as_json(table())


def test_an_untrained_policy_that_is_told_apart_from_random_casts_doubt_on_the_others():
    untrained = [1.1 + 0.001 * n for n in range(5)]

    def told(random):
        scores = {"policy": [1.0] * 5, "policy: untrained": untrained, "random": random}
        rows = {name: [{"nll": nll} for nll in values] for name, values in scores.items()}
        return reading(tabulate(rows, headline="nll", higher_is_better=False))

    doubt = "policy: untrained, which masks at random as well, is worse than random by nll"
    assert doubt in told([nll - 0.1 for nll in untrained[::-1]])
    assert "as well" not in told([nll + 0.01 * (-1) ** n for n, nll in enumerate(untrained)])


def test_json_has_every_score_and_no_infinities():
    values = json.loads(json.dumps(as_json(table(1)), allow_nan=False))
    assert [row["masking"] for row in values["rows"]][1] == "random"
    assert values["rows"][0]["versus_random"]["low"] is None
    assert len(values["rows"][0]["scores"]) == 1


def test_means_and_deviations_are_those_of_a_sample():
    scores = {"random": [{"nll": 1.0}, {"nll": 3.0}]}
    made = tabulate(scores, headline="nll", higher_is_better=False)
    (row,) = as_json(made)["rows"]
    assert row["means"] == {"nll": 2.0}
    assert row["deviations"] == {"nll": pytest.approx(math.sqrt(2))}
    assert "2.000 ± 1.414" in as_text(made)


def test_the_lead_says_who_is_better_and_who_is_worse():
    assert _verdicts(table()) == (
        "Against random masking, better: policy <neural>; worse: none; "
        "no detectable difference: idf."
    )


def test_a_comparison_without_random_is_refused():
    with pytest.raises(ValueError, match="random"):
        tabulate({"idf": [{"f1": 1.0}]}, headline="f1", higher_is_better=True)


def test_the_report_is_one_file_with_escaped_text(tmp_path):
    path = tmp_path / "report.html"
    curve = line_chart({"policy": [(0, 0.1), (1, 0.3)], "random": [(0, 0.1), (1, 0.1)]}, "x", "y")
    write_report(
        path,
        "A <report>",
        "What was found.",
        {"episodes": 3},
        [
            *comparison_sections(table(), "Test scores"),
            Section("Curve", chart=curve),
            settings_section("Settings", {"budget": 0.05}),
        ],
    )
    page = path.read_text()
    assert "A &lt;report&gt;" in page
    assert "<neural>" not in page
    assert not re.search(r"(src|href)=", page)
    assert page.count("<svg") == 3
    assert 'class="better"' in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_charts_are_well_formed_and_empty_ones_are_nothing():
    ET.fromstring(interval_chart(table()))
    assert "difference in f1 to random, per pair (right is better)" in interval_chart(table())
    scores = {"random": [{"nll": 1.0}, {"nll": 1.2}], "lost": [{"nll": math.nan}, {"nll": 1.1}]}
    lost = tabulate(scores, headline="nll", higher_is_better=False)
    assert "nan" not in interval_chart(lost)
    scores = {"none": scores["random"], "mass": scores["lost"]}  # as nmg generation compares
    against_none = tabulate(scores, headline="nll", higher_is_better=False, reference="none")
    label = "difference in nll to none, per pair (left is better)"
    assert label in interval_chart(against_none)
    ET.fromstring(line_chart({"a & b": [(0, 1.0), (1, float("nan"))]}, "x", "y", marks=[(0, "<")]))
    assert line_chart({"a": []}, "x", "y") == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 0.4), (17, 17), (0, 0), (1e-4, 3e-4)])
def test_ticks_span_the_data(low, high):
    values = ticks(low, high, 5)
    assert values[0] <= low
    assert values[-1] >= high
    assert 2 <= len(values) <= 9


def test_one_pair_is_written_in_the_singular_and_without_an_interval():
    scores = {"random": [{"nll": 1.0}], "policy": [{"nll": 1.2}]}
    table = tabulate(scores, headline="nll", higher_is_better=False, unit="episodes")
    told = reading(table)
    assert told.startswith("1 episode, the same for every masking; lower nll is better. ")
    assert "false alarm" not in told
    assert told.endswith("One episode gives no interval and no verdict; take more episodes.")
    lead = _lead(table)
    assert "over one episode" in lead
    assert "inf" not in lead


def test_a_gain_is_shown_against_zero_not_against_the_least_gain():
    chart = ET.fromstring(line_chart({"gain": [(7, 0.0208), (14, 0.0178)]}, "episode", "gain"))
    (zero,) = (line for line in chart.iter("line") if line.get("class") == "zero")
    heights = [float(dot.get("cy")) for dot in chart.iter("circle")]
    base = float(zero.get("y1"))
    assert max(heights) < base  # y grows downwards
    assert (base - heights[1]) / (base - heights[0]) == pytest.approx(0.0178 / 0.0208, abs=0.005)


def test_curves_of_a_training_are_of_the_agent_against_its_rival(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        training_report, "line_chart", lambda series, *args, **marks: drawn.update(series) or ""
    )
    records = [
        {
            "episode": number,
            "score": {"agent": {"nll": 1.0}, "random": {"nll": 1.0 + lead}},
            "validation": {"gain": gain},
        }
        for number, (lead, gain) in enumerate([(0.25, -0.5), (0.75, 0.125)])
    ]
    _curves(records, "nll", 1, compared=True)
    assert drawn == {
        "agent - random": [(1, -0.25), (2, -0.5)],  # running means
        "gain": [(1, -0.5), (2, 0.125)],
    }


@pytest.mark.parametrize("compared", [True, False])
def test_a_report_without_a_table_does_not_point_to_one(compared):
    records = [{"episode": 0, "informative": {"agent": 0.3}, "score": {"agent": {"nll": 1.0}}}]
    (masked,) = _curves(records, "nll", 1, compared=compared)
    assert ("table" in masked.text) == compared


def test_an_axis_of_episodes_has_no_fractions():
    chart = ET.fromstring(line_chart({"gain": [(1, 0.5), (3, 0.25)]}, "episode", "gain"))
    below = [each.text for each in chart.iter("text") if each.get("class") == "tick mid"]
    assert below == ["1", "2", "3"]


def test_every_score_has_the_decimals_of_the_table():
    *_, scores = comparison_sections(table(), "Test scores")
    assert {len(cell.split(".")[1]) for row in scores.rows for cell in row[1:]} == {2}


@pytest.mark.parametrize("task", ["testbed", "qa"])
def test_settings_of_the_testbed_do_not_list_those_of_text(task):
    _, everything = settings_sections(build(TrainingConfig, {"task": task}))
    names = {name for name, _ in everything.rows}
    assert "budget" in names
    assert (task == "qa") == ("window" in names) == ("contexts" in names)
