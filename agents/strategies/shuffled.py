"""The null control of a learned policy: its mask rate per token type, at other positions.

If a policy gains no more than this control, all it has learned is which token types to mask.

Let r_t be the rate at which the policy masks tokens of type t over some contexts. The control
masks token i of a context with probability p_i = min(1, c w_t(i)), where c makes the p_i of the
context sum to its number of masks, and the weights w are fitted, by iterative proportional
fitting, so that over the contexts the p_i of each type average to r_t. The policy's own masks
fulfil both conditions, so both can be met at once.

A type seen once has a rate of 0 or 1, which is its place as well: measured on the contexts it
then masks, the control copies the policy there. Measure it on many contexts, or on others.
"""

from __future__ import annotations

import numpy as np

from agents.strategies.base import Batch, Observation, Strategy
from agents.strategies.schedules import Masks


class ShuffledPolicy(Strategy):
    """Masks each token type as often as a policy does, wherever it stands.

    Types that the policy was not measured on get its overall rate. Masks are drawn anew at every
    call; a policy that uses only part of its budgets is copied in that, too.

    Args:
        policy: a learned policy or any strategy.
        observation: contexts to measure it on, entries (B, L).
        deterministic: how the policy is asked for its masks.
        draws: how often, for a policy that draws.
        seed: of the draws.
    """

    def __init__(
        self,
        policy: Masks,
        observation: Observation,
        *,
        deterministic: bool = True,
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        batch = Batch.of(observation)
        masks = [policy.predict(observation, deterministic=deterministic)[0] for _ in range(draws)]
        masked_BL = np.mean(np.stack(masks), axis=0).reshape(batch.maskable_BL.shape)
        masked_BL *= batch.maskable_BL
        if not batch.maskable_BL.any():
            raise ValueError("The contexts to measure the policy on hold no token to mask.")
        self.rate_V = self._measure(batch, masked_BL)
        self.fill = float(masked_BL.sum() / max(batch.budget_B.sum(), 1))
        self._weight_V, self._unseen = self._fit(batch, masked_BL)

    @staticmethod
    def _measure(batch: Batch, masked_BL: np.ndarray) -> np.ndarray:
        """The policy's mask rate of each token id, (V,); NaN for ids it was not measured on."""
        ids = batch.input_ids_BL[batch.maskable_BL]
        seen_V = np.bincount(ids)
        masked_V = np.bincount(ids, weights=masked_BL[batch.maskable_BL])
        return np.where(seen_V > 0, masked_V / np.maximum(seen_V, 1), np.nan)

    def _fit(
        self, batch: Batch, masked_BL: np.ndarray, rounds: int = 50
    ) -> tuple[np.ndarray, float]:
        """Weights per token id, (V,), and the weight of an id that was not seen."""
        ids = batch.input_ids_BL[batch.maskable_BL]
        target_V = np.bincount(ids, weights=masked_BL[batch.maskable_BL])
        size_B = masked_BL.sum(1)
        weight_V = np.nan_to_num(self.rate_V)
        ids_BL = np.where(batch.maskable_BL, batch.input_ids_BL, 0)
        for _ in range(rounds):
            chance_BL = inclusion(weight_V[ids_BL] * batch.maskable_BL, size_B)
            reached_V = np.bincount(ids, weights=chance_BL[batch.maskable_BL])
            weight_V *= np.where(reached_V > 0, target_V / np.maximum(reached_V, 1e-12), 1.0)
            weight_V /= max(weight_V.max(), 1e-12)
        return weight_V, float(weight_V[ids].mean())

    def choose(self, batch: Batch, deterministic: bool) -> np.ndarray:
        known_BL = batch.input_ids_BL < len(self._weight_V)
        ids_BL = np.where(known_BL, batch.input_ids_BL, 0)
        known_BL &= ~np.isnan(self.rate_V[ids_BL])
        weights_BL = np.where(known_BL, self._weight_V[ids_BL], self._unseen) * batch.maskable_BL
        chance_BL = inclusion(weights_BL, self.fill * batch.budget_B)
        return np.stack([systematic(chance_L, self._rng) for chance_L in chance_BL])


def inclusion(weights_BL: np.ndarray, size_B: np.ndarray) -> np.ndarray:
    """Chances min(1, c w) with c, of each row, such that they sum to its size, (B, L).

    A row with fewer positive weights than its size gives each of them the chance 1.
    """
    sorted_BL = -np.sort(-weights_BL, axis=1)
    # With the j heaviest at chance 1, the others share size - j: the first j that gives none of
    # the others more than 1 is the right one.
    rest_BL = np.cumsum(sorted_BL[:, ::-1], axis=1)[:, ::-1]
    left_BL = size_B[:, None] - np.arange(weights_BL.shape[1])
    scale_BL = left_BL / np.maximum(rest_BL, 1e-300)
    right_BL = (scale_BL * sorted_BL <= 1) | (left_BL <= 0)
    first_B = np.argmax(right_BL, axis=1)
    scale_B = np.take_along_axis(scale_BL, first_B[:, None], axis=1)[:, 0]
    enough_B = (weights_BL > 0).sum(1) > size_B
    scale_B = np.where(enough_B & right_BL.any(1), np.maximum(scale_B, 0), 1e300)
    return np.where(weights_BL > 0, np.minimum(weights_BL * scale_B[:, None], 1.0), 0.0)


def systematic(chance_L: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw in which each token is in with exactly its chance, bool (L,).

    Tokens are laid end to end in random order, each as long as its chance, and those that meet a
    grid of step 1 with a random start are taken: their number is the sum of the chances, rounded
    down or up (Madow 1949, systematic sampling).
    """
    mask_L = np.zeros(chance_L.shape, dtype=bool)
    order = rng.permutation(np.flatnonzero(chance_L > 0))
    start = rng.random()
    if len(order):
        edges = np.cumsum(chance_L[order])
        # A sum that is a whole number but for rounding must not draw one more or one less.
        if abs(edges[-1] - round(edges[-1])) < 1e-9:
            edges *= round(edges[-1]) / edges[-1]
        hits = np.floor(np.concatenate([[0.0], edges]) + start)
        mask_L[order[np.diff(hits) > 0]] = True
    return mask_L
