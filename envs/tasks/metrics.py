"""Task metrics, all in 0-100: SQuAD exact match and F1, accuracy, macro- and micro-F1.

The SQuAD functions give what the official evaluation scripts of SQuAD v1.1 and v2.0 give.
The two differ where an answer is empty once normalised ("The", "a", "..."): v1.1 gives F1 0 to
anything compared with it, v2.0 drops such references and gives F1 1 to empty against empty.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


# References and frequent predictions come back in every evaluation.
@lru_cache(maxsize=1 << 17)
def _tokens(text: str) -> tuple[str, ...]:
    """Words in lower case, without punctuation and English articles."""
    return tuple(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _overlap_f1(predicted: tuple[str, ...], gold: tuple[str, ...]) -> float:
    """Harmonic mean of token precision and recall, in 0-1; 0 without a shared token."""
    if predicted == gold:
        return float(bool(gold))
    rest = list(gold)  # answers are short: removing beats counting
    for token in predicted:
        if token in rest:
            rest.remove(token)
    shared = len(gold) - len(rest)
    # The scripts' own formula, operation by operation, for their own rounding.
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def squad_v1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 by the rules of SQuAD v1.1, best over the references of each question.

    Args:
        predictions: one answer per question.
        references: at least one reference answer per question.

    Returns:
        ``em`` and ``f1``, 0-100.

    Raises:
        ValueError: if a question has no reference, or the numbers of both differ.
    """
    _check_lengths(predictions, references)
    em = f1 = 0.0
    for number, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        if not texts:
            raise ValueError(
                f"Question {number} has no reference answer; SQuAD v1.1 needs one for each. "
                "Score sets with impossible questions by the rules of v2.0."
            )
        predicted, golds = _tokens(prediction), [_tokens(text) for text in texts]
        em += predicted in golds
        f1 += max(_overlap_f1(predicted, gold) for gold in golds)
    return {"em": 100.0 * em / len(predictions), "f1": 100.0 * f1 / len(predictions)}


def squad_v2(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 by the rules of SQuAD v2.0, where a question may have no answer.

    Args:
        predictions: one answer per question; empty for "no answer".
        references: the reference answers of each question; none if it is impossible.

    Returns:
        ``em``, ``f1`` and ``total`` over all questions; ``has_answer_*`` and ``no_answer_*`` over
        the questions with and without an answer, where there are any. Metrics 0-100, totals counts.
    """
    _check_lengths(predictions, references)
    em, f1 = _scores_v2(predictions, references)
    has_answer = np.array([bool(texts) for texts in references])
    result = {}
    everything = np.ones_like(has_answer)
    parts = {"": everything, "has_answer_": has_answer, "no_answer_": ~has_answer}
    for prefix, chosen in parts.items():
        if chosen.any():
            result[f"{prefix}em"] = 100.0 * float(em[chosen].mean())
            result[f"{prefix}f1"] = 100.0 * float(f1[chosen].mean())
            result[f"{prefix}total"] = float(chosen.sum())
    return result


def _scores_v2(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each question, in 0-1."""
    em, f1 = np.zeros(len(predictions)), np.zeros(len(predictions))
    for number, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        predicted = _tokens(prediction)
        golds = [gold for gold in map(_tokens, texts) if gold] or [()]
        em[number] = predicted in golds
        f1[number] = max(
            _overlap_f1(predicted, gold) if predicted and gold else float(predicted == gold)
            for gold in golds
        )
    return em, f1


def accuracy(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Share of equal labels, 0-100."""
    _check_lengths(predictions, targets)
    return 100.0 * float(np.mean(np.asarray(targets) == np.asarray(predictions)))


def macro_f1(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Unweighted mean of the F1 of the labels that occur in either argument, 0-100."""
    hits, target_counts, prediction_counts = _label_counts(targets, predictions)
    # A label that occurs has a positive denominator.
    return 100.0 * float(np.mean(2 * hits / (target_counts + prediction_counts)))


def micro_f1(targets: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of all decisions pooled, 0-100; equals accuracy when every item has exactly one label."""
    hits, target_counts, prediction_counts = _label_counts(targets, predictions)
    return 100.0 * float(2 * hits.sum() / (target_counts.sum() + prediction_counts.sum()))


def _label_counts(
    targets: np.ndarray, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, occurrences in the targets and in the predictions of every label that occurs."""
    _check_lengths(predictions, targets)
    labels, codes = np.unique(np.concatenate([targets, predictions]), return_inverse=True)
    target_codes, prediction_codes = codes[: len(targets)], codes[len(targets) :]
    hit_codes = target_codes[target_codes == prediction_codes]
    hits, in_targets, in_predictions = (
        np.bincount(c, minlength=len(labels)) for c in (hit_codes, target_codes, prediction_codes)
    )
    return hits, in_targets, in_predictions


def _check_lengths(predictions: Sequence | np.ndarray, references: Sequence | np.ndarray) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            f"There are {len(predictions)} predictions for {len(references)} references; "
            "give one prediction for each."
        )
    if not len(references):
        raise ValueError("There is nothing to score: give at least one prediction.")
