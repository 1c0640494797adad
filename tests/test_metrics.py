"""Metrics against other implementations and against known answers."""

import numpy as np
import pytest

from envs.tasks.metrics import (
    accuracy,
    macro_f1,
    micro_f1,
    squad_v1,
    squad_v2,
)

WORDS = [
    "The",
    "a",
    "river",
    "rivers",
    "1902",
    "bridge,",
    "Arden",
    "(Arden)",
    "an",
    "U.S.",
    "—",
    "",
]


def random_answers(seed: int, count: int) -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(seed)

    def answer() -> str:  # never empty once normalised: there v1.1 and v2.0 differ
        return " ".join([*rng.choice(WORDS, size=rng.integers(0, 5)), rng.choice(WORDS[2:8])])

    return [answer() for _ in range(count)], [
        [answer() for _ in range(rng.integers(1, 4))] for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("answer", "same", "other"),
    [
        ("The  U.S. (an Army), a theory!", "us army theory", "u s army theory"),
        ("A-level", "alevel", "level"),
    ],
)
def test_answers_are_normalised_as_by_the_official_script(answer, same, other):
    assert squad_v1([answer], [[same]])["em"] == 100
    assert squad_v1([answer], [[other]])["em"] == 0


def test_squad_v1_equals_torchmetrics():
    text = pytest.importorskip("torchmetrics.text")
    predictions, references = random_answers(seed=0, count=300)
    predictions[:20] = [texts[0] for texts in references[:20]]
    ours = squad_v1(predictions, references)
    oracle = text.SQuAD()(
        [{"prediction_text": p, "id": str(n)} for n, p in enumerate(predictions)],
        [
            {"answers": {"answer_start": [0] * len(r), "text": r}, "id": str(n)}
            for n, r in enumerate(references)
        ],
    )
    assert ours["em"] == pytest.approx(float(oracle["exact_match"]), abs=1e-4)
    assert ours["f1"] == pytest.approx(float(oracle["f1"]), abs=1e-4)
    assert 0 < ours["em"] < ours["f1"] < 100


def test_squad_v1_takes_the_best_reference():
    assert squad_v1(["northern hills"], [["sea", "the northern hills of Arden"]]) == {
        "em": 0.0,
        "f1": pytest.approx(100 * 2 / 3),
    }


def test_squad_v1_and_v2_differ_on_answers_that_normalise_to_nothing():
    assert squad_v1(["the"], [["a"]]) == {"em": 100.0, "f1": 0.0}
    assert squad_v2(["the"], [["a"]])["f1"] == 100.0
    # v2.0 drops such a reference beside a real one; v1.1 does not.
    assert squad_v1(["the"], [["a", "river"]])["em"] == 100.0
    assert squad_v2(["the"], [["a", "river"]])["em"] == 0.0


def test_squad_v2_scores_no_answer():
    predictions = ["Arden", "", "in 1902", ""]
    references = [["Arden"], [], [], ["1902"]]
    assert squad_v2(predictions, references) == {
        "em": 50.0,
        "f1": 50.0,
        "total": 4.0,
        "has_answer_em": 50.0,
        "has_answer_f1": 50.0,
        "has_answer_total": 2.0,
        "no_answer_em": 50.0,
        "no_answer_f1": 50.0,
        "no_answer_total": 2.0,
    }


def test_squad_v2_without_impossible_questions_has_no_part_for_them():
    assert set(squad_v2(["x"], [["x"]])) == {
        *("em", "f1", "total", "has_answer_em", "has_answer_f1", "has_answer_total")
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_label_metrics_equal_sklearn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    # Some labels occur only in the targets, some only in the predictions, some nowhere.
    targets, predictions = rng.choice([0, 1, 2, 5], size=60), rng.choice([0, 1, 3, 5], size=60)
    assert accuracy(targets, predictions) == pytest.approx(
        100 * sklearn.accuracy_score(targets, predictions)
    )
    for ours, average in ((macro_f1, "macro"), (micro_f1, "micro")):
        expected = 100 * sklearn.f1_score(targets, predictions, average=average, zero_division=0)
        assert ours(targets, predictions) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "other"),
    [
        (squad_v1, "references"),
        (squad_v2, "references"),
        (accuracy, "targets"),
        (macro_f1, "targets"),
    ],
)
def test_nothing_or_unequal_numbers_are_refused(metric, other):
    with pytest.raises(ValueError, match="nothing to score"):
        metric([], [])
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        metric(predictions=["a", "b"], **{other: [["a"]]})


def test_squad_v1_refuses_a_question_without_reference():
    with pytest.raises(ValueError, match="Question 1 has no reference"):
        squad_v1(["a", "b"], [["a"], []])
