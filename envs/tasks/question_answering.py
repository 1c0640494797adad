"""Extractive question answering: windows over the context, a span head, n-best answers.

The softmax over start (and end) positions runs over the feature's own tokens. The original's ran
over all 384 positions of the padded input, whose pads have states of their own that an unpadded
encoder never computes; so losses here are lower by the share of probability that pads took, and
not comparable in absolute value. ``pad=True`` does as the original did, at its cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from envs.models.rounding import ROW_PARTS, rounded
from envs.tasks import metrics
from envs.tasks.question_windows import QuestionWindows
from envs.tasks.task import Feature, short_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from envs.text.examples import QuestionExample

MAX_ANSWER_TOKENS = 30
N_BEST = 20
"""Best starts and best ends that are combined in the search for an answer."""
EVALUATION_BATCH = 512
"""Features searched at once: small enough for the cache, large enough for NumPy."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        example: the example of the features it was found in.
        text: best non-null answer, a piece of the example's context; empty if no pair of an n-best
            start and an n-best end makes a span.
        score: its start logit plus its end logit.
        null_score: the same for "no answer", the lowest of the example's windows.
    """

    example: QuestionExample
    text: str
    score: float
    null_score: float


class QuestionAnswering:
    """The task protocol for SQuAD-like data.

    A context that does not fit is cut into windows, each a feature of its own; the question comes
    first in all of them and is never cut by this. Token targets are those of the first reference
    answer; a window without it, and every window of an impossible question, targets the null
    position: the [CLS] token, index 0 where a tokenizer has none.

    Args:
        tokenizer: a fast tokenizer of any family.
        max_length: longest feature in tokens, special tokens included.
        stride: tokens that neighbouring windows share, as fast tokenizers count it. (The original
            moved each window by 128 tokens instead.)
        pad: pad every input to ``max_length`` and let the softmax run over the padding too.

    Attributes:
        pad_to: length to which the scorer pads, or ``None``.

    Raises:
        ValueError: if the tokenizer is not a fast one or a window would not move forward.
    """

    name = "qa"
    headline = "f1"
    higher_is_better: Mapping[str, bool] = {
        "em": True,
        "f1": True,
        "exact_position": True,
        "nll": False,
    }
    reads_first: bool = False

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 384,
        stride: int = 128,
        pad: bool = False,
    ) -> None:
        self.windows = QuestionWindows(tokenizer, max_length, stride)
        self.pad_to = max_length if pad else None

    @property
    def fingerprint(self) -> str:
        """Of the padding."""
        return short_digest(type(self).__name__, self.pad_to)

    def features(self, examples: Sequence[QuestionExample], *, training: bool) -> list[Feature]:
        """Every window of every example, in order; the same for training and scoring.

        Raises:
            ValueError: if an example has no answer and is not marked impossible.
        """
        del training  # `evaluate` tells the windows without the answer apart by itself
        return self.windows.features(examples)

    def head(self, width: int) -> nn.Module:
        """A linear layer to a start and an end logit."""
        linear = nn.Linear(width, 2)
        nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        return linear

    def loss(
        self,
        head: nn.Module,
        hidden_TD: Tensor,
        lengths: Sequence[int],
        features: Sequence[Feature],
    ) -> Tensor:
        """Mean over the features of half the start plus half the end cross-entropy."""
        logits_T2 = _logits(head, hidden_TD)
        # Indices made on the CPU: a boolean mask would make a GPU wait.
        lengths_B = torch.as_tensor(lengths)
        owner_T = torch.repeat_interleave(torch.arange(len(features)), lengths_B)
        place_T = torch.arange(len(owner_T)) - (lengths_B.cumsum(0) - lengths_B)[owner_T]
        logits_BL2 = logits_T2.new_full((len(features), max(lengths), 2), -torch.inf)
        logits_BL2[owner_T.to(logits_T2.device), place_T.to(logits_T2.device)] = logits_T2
        targets_B2 = torch.tensor([f.target for f in features], device=logits_T2.device)
        return nn.functional.cross_entropy(logits_BL2, targets_B2)

    def predict(
        self,
        head: nn.Module,
        hidden_TD: Tensor,
        lengths: Sequence[int],
        features: Sequence[Feature],
    ) -> list[np.ndarray]:
        """Start and end logits of every token, one float32 array (n, 2) per feature."""
        logits_T2 = _logits(head, hidden_TD).detach().cpu().numpy()
        return np.split(logits_T2, np.cumsum(lengths)[:-1])

    def evaluate(
        self, features: Sequence[Feature], outputs: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """Score outputs against the features' examples.

        Args:
            features: features, with any number of windows of each example.
            outputs: what `predict` gave for them.

        Returns:
            ``em`` and ``f1`` per question, over its windows, by the rules of SQuAD v1.1, or v2.0
            where some question is impossible (only there "no answer" can be given);
            ``exact_position``: share of start and end argmaxes at the target, over all windows (the
            original's reward); ``nll``: mean of half the start plus half the end cross-entropy in
            nats, over the windows that hold the answer or belong to an impossible question (NaN if
            there are none).
        """
        answers = self.answers(features, outputs)
        some_impossible = any(answer.example.is_impossible for answer in answers)
        references = [reference_texts(answer.example) for answer in answers]
        if some_impossible:
            texts = ["" if a.null_score > a.score else a.text for a in answers]
            scores = metrics.squad_v2(texts, references)
        else:
            scores = metrics.squad_v1([answer.text for answer in answers], references)
        hits, losses = self._position_scores(features, outputs)
        return {
            "em": scores["em"],
            "f1": scores["f1"],
            "exact_position": 100.0 * float(hits.mean()),
            "nll": float(losses.mean()) if len(losses) else float("nan"),
        }

    def answers(self, features: Sequence[Feature], outputs: Sequence[np.ndarray]) -> list[Answer]:
        """The best answer to every question, over all its windows, in order of first appearance."""
        numbers: dict[QuestionExample, int] = {}
        owners_F = np.array([numbers.setdefault(f.example, len(numbers)) for f in features])
        spans_F2, scores_F, nulls_F = self._best_spans(features, outputs)
        nulls_E = np.full(len(numbers), np.inf)
        np.minimum.at(nulls_E, owners_F, nulls_F)
        # Best window first within each example, then the first of each example.
        order = np.lexsort((-scores_F, owners_F))
        best_E = order[np.searchsorted(owners_F[order], np.arange(len(numbers)))]
        result = []
        for example, window, null_score in zip(numbers, best_E, nulls_E, strict=True):
            text = ""
            if np.isfinite(scores_F[window]):
                offsets = features[window].offsets
                assert offsets is not None
                start, end = spans_F2[window]
                text = example.context[offsets[start, 0] : offsets[end, 1]].strip()
            result.append(Answer(example, text, float(scores_F[window]), float(null_score)))
        return result

    def _best_spans(
        self, features: Sequence[Feature], outputs: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Best (start, end) of each feature, (F, 2); its score, (F,), -inf if none; null scores."""
        spans, scores, nulls = [], [], []
        for first in range(0, len(features), EVALUATION_BATCH):
            batch = features[first : first + EVALUATION_BATCH]
            logits_FL2 = _pad(outputs[first : first + EVALUATION_BATCH])
            rows = np.arange(len(batch))
            null_F = np.array([self.windows.null_index(len(feature)) for feature in batch])
            nulls.append(logits_FL2[rows, null_F].sum(axis=1))
            in_context = [_in_context(feature) for feature in batch]
            in_context_FL = _pad(in_context, fill=False, width=logits_FL2.shape[1])
            logits_FL2[~in_context_FL] = -np.inf
            # A window may have fewer context tokens than that: those left over score -inf.
            count = min(N_BEST, logits_FL2.shape[1])
            top = np.argpartition(logits_FL2, -count, axis=1)[:, -count:]
            values = np.take_along_axis(logits_FL2, top, axis=1)
            widths = top[:, None, :, 1] - top[:, :, None, 0]
            allowed = (widths >= 0) & (widths < MAX_ANSWER_TOKENS)
            sums = values[:, :, None, 0] + values[:, None, :, 1]
            sums = np.where(allowed, sums, -np.inf).reshape(len(batch), -1)
            best = sums.argmax(axis=1)
            scores.append(sums[rows, best])
            starts, ends = np.unravel_index(best, (count, count))
            spans.append(np.stack([top[rows, starts, 0], top[rows, ends, 1]], axis=1))
        return np.concatenate(spans), np.concatenate(scores), np.concatenate(nulls)

    def _position_scores(
        self, features: Sequence[Feature], outputs: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Argmax at the target, (F, 2) bool; cross-entropy of the features that have one."""
        hits, losses = [], []
        for first in range(0, len(features), EVALUATION_BATCH):
            batch = features[first : first + EVALUATION_BATCH]
            logits_FL2 = _pad(outputs[first : first + EVALUATION_BATCH])
            targets_F2 = np.array([feature.target for feature in batch])
            hits.append(logits_FL2.argmax(axis=1) == targets_F2)
            at_target = np.take_along_axis(logits_FL2, targets_F2[:, None, :], axis=1)[:, 0]
            highest = logits_FL2.max(axis=1)
            logsum = highest + np.log(np.exp(logits_FL2 - highest[:, None]).sum(axis=1))
            null_F = np.array([self.windows.null_index(len(feature)) for feature in batch])
            impossible_F = np.array([feature.example.is_impossible for feature in batch])
            counted = impossible_F | (targets_F2[:, 0] != null_F)
            losses.append((logsum - at_target).mean(axis=1)[counted])
        return np.concatenate(hits), np.concatenate(losses)


def _logits(head: nn.Module, hidden_TD: Tensor) -> Tensor:
    """Start and end logits of every token, (T, 2) float32."""
    tokens = len(hidden_TD)
    filling = rounded(tokens, ROW_PARTS) - tokens
    return head(nn.functional.pad(hidden_TD, (0, 0, 0, filling)))[:tokens].float()


def reference_texts(example: QuestionExample) -> list[str]:
    """The reference answers' texts; none for an impossible question."""
    if example.is_impossible:
        return []
    return [*(text for text, _ in example.answers), *example.accepted]


def _in_context(feature: Feature) -> np.ndarray:
    if feature.offsets is None:
        raise ValueError(
            f"The feature of question {feature.example.id!r} has no offsets; "
            "score features that QuestionAnswering.features made."
        )
    # Tokens of whitespace alone have an empty span and are no answers.
    return feature.offsets[:, 1] > feature.offsets[:, 0]


def _pad(
    rows: Sequence[np.ndarray], fill: float | bool = -np.inf, width: int | None = None
) -> np.ndarray:
    """Stack arrays of different lengths into one array, filled up at the end."""
    lengths = np.array([len(row) for row in rows])
    packed = np.concatenate(rows)
    width = width or int(lengths.max())
    padded = np.full((len(rows), width, *packed.shape[1:]), fill, dtype=packed.dtype)
    padded[np.arange(width) < lengths[:, None]] = packed
    return padded
