"""What a masking prefers: rare tokens? tokens that the language model finds hard? frequent ones?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FREQUENT = 100
"""How many of the most frequent types count as frequent."""
ENOUGH = 40
"""Occurrences from which on a type's mask rate is looked at. Below, the types that were masked at
all (and so have a loss) are those that were masked too often: with few, even random masks would
seem to prefer the rare and hard ones."""


class MaskStatistics:
    """Counts which token types are masked, and how hard they were to predict.

    Args:
        counts_V: how often each token id occurs in the corpus; what is rare is read off it.
    """

    def __init__(self, counts_V: np.ndarray) -> None:
        self.counts_V = np.asarray(counts_V)
        self.seen_V, self.masked_V, self.loss_V = (np.zeros(len(self.counts_V)) for _ in range(3))
        frequent = np.argsort(-self.counts_V, kind="stable")[:FREQUENT]
        self._frequent_V = np.zeros(len(self.counts_V), dtype=bool)
        self._frequent_V[frequent[self.counts_V[frequent] > 0]] = True

    def add(
        self,
        observation: Mapping[str, np.ndarray],
        mask: np.ndarray,
        token_losses: np.ndarray | None = None,
    ) -> None:
        """Count a context or a batch; ``token_losses`` are read where masked."""
        size = len(self.counts_V)
        ids, chosen = np.asarray(observation["input_ids"]), np.asarray(mask, dtype=bool)
        maskable = np.asarray(observation["maskable"], dtype=bool)
        self.seen_V += np.bincount(ids[maskable], minlength=size)
        self.masked_V += np.bincount(ids[chosen], minlength=size)
        if token_losses is not None:
            losses = np.asarray(token_losses, float)[chosen]
            self.loss_V += np.bincount(ids[chosen], weights=losses, minlength=size)

    def summary(self) -> dict[str, float]:
        """The preferences so far.

        Returns:
            ``rarity``: rank correlation, over types, of mask rate with rarity in the corpus.
            ``difficulty``: of mask rate with the mean loss, over types that were masked; nan
            without losses. ``frequent``: share of the masked tokens that belong to the 100 most
            frequent types. ``tokens``: masked tokens.
        """
        enough_V = self.seen_V >= ENOUGH
        rate_V = self.masked_V / np.maximum(self.seen_V, 1)
        known_V = enough_V & (self.masked_V > 0) & (self.loss_V > 0)
        mean_V = self.loss_V / np.maximum(self.masked_V, 1)
        total = self.masked_V.sum()
        return {
            "rarity": rank_correlation(rate_V[enough_V], -self.counts_V[enough_V]),
            "difficulty": rank_correlation(rate_V[known_V], mean_V[known_V]),
            "frequent": float(self.masked_V[self._frequent_V].sum() / max(total, 1)),
            "tokens": float(total),
        }


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; nan where one does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2)[group]
