"""The check of a data set counts what is there and what is wrong, on sets made to be wrong."""

from __future__ import annotations

import os

import pytest

from envs.text.checks import check
from envs.text.datasets import Splits, load_splits
from envs.text.examples import GenerationExample, QuestionExample, TextExample
from envs.text.locate import MissingDataError


def question(name: str, context: str, ask: str = "What?", impossible: bool = False):
    answers = () if impossible else ((context[:1], 0),)
    return QuestionExample(name, "T", context, ask, answers, impossible)


def test_questions():
    train = [
        question("1", "one"),
        question("1", "one", "Who?"),
        question("3", "one", "Who?"),
        question("4", "two", impossible=True),
    ]
    test = [question("4", "two"), question("5", "three")]
    skipped = {"train": {"answers not at their offset": 1200}, "test": {}}
    report = check(Splits("mine", "qa", train, None, test, skipped))
    counts = report.splits["train"]
    assert (counts.rows, counts.texts, counts.repeated) == (4, 2, 1)
    assert (counts.duplicate_ids, counts.impossible) == (1, 1)
    assert report.shared == {("train", "test"): 1}
    assert report.shared_ids == {("train", "test"): 1}
    assert str(report).splitlines() == [
        "mine (qa)",
        "split  rows  texts  repeated  duplicate ids  impossible",
        "train     4      2         1              1           1",
        "test      2      2         0              0           0",
        "",
        "skipped in train: 1,200 answers not at their offset",
        "texts in both train and test: 1",
        "ids in both train and test: 1",
    ]


def test_labels_are_counted_per_split():
    train = [TextExample(str(n), f"text {n // 2}", "ab"[n % 3 == 0]) for n in range(6)]
    report = check(Splits("mine", "classification", train, train[:1], train[4:]))
    assert report.splits["train"].labels == {"a": 4, "b": 2}
    assert report.splits["train"].repeated == 3
    assert report.shared == {("train", "dev"): 1, ("train", "test"): 1, ("dev", "test"): 0}
    lines = str(report).splitlines()
    assert lines[6:9] == [
        "label  train  dev  test",
        "a          4    0     2",
        "b          2    1     0",
    ]
    assert not any("offset" in line for line in lines)


def test_texts_are_shared_by_their_words():
    train, test = (TextExample("0", text, "a") for text in ("<< Ras >> binds.", "ras [[binds]]"))
    report = check(Splits("mine", "classification", [train], None, [test]))
    assert report.shared == {("train", "test"): 1}


def test_pairs_without_other_splits():
    report = check(Splits("mine", "generation", [GenerationExample("0", "a", ("b",))]))
    assert str(report).splitlines()[-1] == "train     1      1         0              0"


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "repeated", "shared"),
    [("chemprot", (25, 17, 25), (0, 1, 0)), ("scicite", (1, 0, 1), (13, 0, 0))],
)
def test_real_sets_show_their_known_damage(name, repeated, shared):
    try:
        report = check(load_splits(name, data_dir=os.environ.get("NMG_DATA")))
    except MissingDataError as error:
        pytest.skip(str(error))
    assert tuple(each.repeated for each in report.splits.values()) == repeated
    assert tuple(report.shared.values()) == shared
