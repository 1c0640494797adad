"""Text classification: one label per text, from the encoder's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from envs.tasks import metrics
from envs.tasks.cut_texts import CutTexts
from envs.tasks.task import Feature, short_digest

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from envs.text.examples import TextExample

DROPOUT = 0.1
SHOWN_LABELS = 20
"""Known labels an error message lists at most."""


class Classification:
    """The task protocol for texts with one label each.

    Args:
        tokenizer: a fast tokenizer of any family.
        labels: every label there is; the order gives their numbers.
        max_length: longer texts are cut to this many tokens, special tokens included. A warning
            counts them.
        pooling: what of the states the head sees: the ``first`` token's ([CLS] in BERT's family, as
            in the paper) or the ``mean`` over all tokens (how minilm was trained).

    Raises:
        ValueError: if there are fewer than two labels, or one twice, or the tokenizer is slow.
    """

    name = "classification"
    headline = "accuracy"
    higher_is_better: Mapping[str, bool] = {
        "accuracy": True,
        "macro_f1": True,
        "micro_f1": True,
        "nll": False,
    }
    pad_to: int | None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        max_length: int = 256,
        pooling: Literal["first", "mean"] = "first",
    ) -> None:
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise ValueError(
                f"The labels are {_listed(labels)}; classification needs at least two, each once."
            )
        if pooling not in ("first", "mean"):
            raise ValueError(f"pooling is {pooling!r}; it must be 'first' or 'mean'.")
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; "
                "classification needs one (a tokenizer.json)."
            )
        room = max_length - tokenizer.num_special_tokens_to_add()
        if room < 1:
            raise ValueError(
                f"max_length is {max_length}; the special tokens alone need "
                f"{tokenizer.num_special_tokens_to_add()}, so it must be higher."
            )
        self.tokenizer = tokenizer
        self.labels = tuple(labels)
        self.max_length = max_length
        self.pooling = pooling
        self.reads_first = pooling == "first"
        self._cut = CutTexts()
        self._numbers = {label: number for number, label in enumerate(self.labels)}

    @property
    def fingerprint(self) -> str:
        """Of the labels and what the head sees."""
        return short_digest(type(self).__name__, self.labels, self.pooling)

    def features(self, examples: Sequence[TextExample], *, training: bool) -> list[Feature]:
        """One feature per example, in order; a warning says how many texts were cut, once.

        Raises:
            ValueError: if a label is not among the task's, or a text has no tokens.
        """
        if not examples:
            return []
        targets = [(self._number(example),) for example in examples]
        encoded = self._encode(examples)
        result = []
        for row, (example, target) in enumerate(zip(examples, targets, strict=True)):
            input_ids = np.array(encoded["input_ids"][row], dtype=np.int32)
            if not len(input_ids):
                raise ValueError(f"The text of example {example.id!r} has no tokens; leave it out.")
            types = encoded["token_type_ids"][row] if "token_type_ids" in encoded else 0
            token_type_ids = np.full(len(input_ids), types, dtype=np.int8)
            result.append(Feature(input_ids, token_type_ids, target, example))
        self._cut.count(encoded, "texts", self.max_length, training=training)
        return result

    def _encode(self, examples: Sequence[TextExample]) -> BatchEncoding:
        return self.tokenizer(
            [example.text for example in examples],
            truncation=True,
            max_length=self.max_length,
            verbose=False,
        )

    def _number(self, example: TextExample) -> int:
        number = self._numbers.get(example.label)
        if number is None:
            raise ValueError(
                f"Example {example.id!r} has the label {example.label!r}; the known labels are "
                f"{_listed(self.labels)}. Correct it, or give a training set that has this label."
            )
        return number

    def head(self, width: int) -> nn.Module:
        """Dense layer, tanh, dropout, linear layer: BERT's pooler and classifier, both fresh."""
        head = nn.Sequential(
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Dropout(DROPOUT),
            nn.Linear(width, len(self.labels)),
        )
        for module in head:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        return head

    def loss(
        self,
        head: nn.Module,
        hidden_TD: Tensor,
        lengths: Sequence[int],
        features: Sequence[Feature],
    ) -> Tensor:
        """Mean cross-entropy."""
        logits_BC = head(self._pool(hidden_TD, lengths)).float()
        targets_B = torch.tensor([f.target[0] for f in features], device=logits_BC.device)
        return nn.functional.cross_entropy(logits_BC, targets_B)

    def predict(
        self,
        head: nn.Module,
        hidden_TD: Tensor,
        lengths: Sequence[int],
        features: Sequence[Feature],
    ) -> list[np.ndarray]:
        """The logits of the labels, one float32 array (classes,) per feature."""
        logits_BC = head(self._pool(hidden_TD, lengths))
        return list(logits_BC.detach().float().cpu().numpy())

    def _pool(self, hidden_TD: Tensor, lengths: Sequence[int]) -> Tensor:
        lengths_B = torch.as_tensor(lengths)
        if self.pooling == "mean":
            lengths_B = lengths_B.to(hidden_TD.device)
            return torch.segment_reduce(hidden_TD.float(), "mean", lengths=lengths_B, axis=0)
        return hidden_TD[(lengths_B.cumsum(0) - lengths_B).to(hidden_TD.device)]

    def evaluate(
        self, features: Sequence[Feature], outputs: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """``accuracy``, ``macro_f1`` and ``micro_f1`` (0-100) and ``nll`` (mean, in nats)."""
        logits_BC = np.stack(outputs).astype(np.float64)
        targets_B = np.array([feature.target[0] for feature in features])
        predictions_B = logits_BC.argmax(axis=1)
        highest_B = logits_BC.max(axis=1)
        logsum_B = highest_B + np.log(np.exp(logits_BC - highest_B[:, None]).sum(axis=1))
        nll_B = logsum_B - logits_BC[np.arange(len(targets_B)), targets_B]
        return {
            "accuracy": metrics.accuracy(targets_B, predictions_B),
            "macro_f1": metrics.macro_f1(targets_B, predictions_B),
            "micro_f1": metrics.micro_f1(targets_B, predictions_B),
            "nll": float(nll_B.mean()),
        }


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:SHOWN_LABELS])
    more = len(labels) - SHOWN_LABELS
    return (shown or "none") + (f" and {more} more" if more > 0 else "")
