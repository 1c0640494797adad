"""The null control of a learned policy: its mask rate per token type, at other positions.

If a policy gains no more than this control, all it has learned is which token types to mask.

Let r_t be the rate at which the policy masks tokens of type t over some contexts. The control
masks token i of a context with probability p_i = min(1, c w_t(i)), where c makes the p_i of the
context sum to its number of masks, and the weights w are fitted, by iterative proportional
fitting, so that over the contexts the p_i of each type average to r_t. The policy's own masks
fulfil both conditions, so both can be met at once.

A type seen once has a rate of 0 or 1, which is its place as well: measured on the contexts it
then masks, the control would copy the policy there. So contexts of even id are masked by what was
measured on those of odd id, and the other way round; if all that were measured are of one parity,
the next binary digit in which their ids differ takes its place.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from agents.strategies.base import Batch, Observation, Strategy
from agents.strategies.schedules import Masks

ROUNDS = 50
"""Of the proportional fitting."""


class _Rates(NamedTuple):
    """Weights of token ids and where they are known, (V,); the weight of all others; the part of a
    budget that is used."""

    weight_V: np.ndarray
    known_V: np.ndarray
    unseen: float
    fill: float


class ShuffledPolicy(Strategy):
    """Masks each token type as often as a policy does, wherever it stands.

    Types that the policy was not measured on get its overall rate. Masks are drawn anew at every
    call; a policy that uses only part of its budgets is copied in that, too.

    Args:
        policy: a learned policy or any strategy.
        observation: contexts to measure it on, entries (B, L). Without ``context_id``, or with
            something to mask in one context alone (a warning), all serve for all.
        seed: of the draws.
    """

    def __init__(self, policy: Masks, observation: Observation, *, seed: int = 0) -> None:
        super().__init__(seed)
        batch = Batch.of(observation)
        masks, _ = policy.predict(observation, deterministic=True)
        masked_BL = np.reshape(masks, batch.maskable_BL.shape).astype(float) * batch.maskable_BL
        full_B = batch.maskable_BL.any(1)
        if not full_B.any():
            raise ValueError("The contexts to measure the policy on hold no token to mask.")
        ids = _context_ids(batch)[full_B]
        differ = int(np.bitwise_or.reduce(ids ^ ids[0]))
        self._digit = differ & -differ or 1  # the lowest binary digit in which the ids differ
        odd_B = self._odd(batch)
        halves = [full_B & odd_B, full_B & ~odd_B]
        if not differ:
            halves = [full_B, full_B]
            if "context_id" in observation:
                warnings.warn(
                    "The shuffled control was measured on a single context, so there it masks "
                    "nearly what the policy masks; give it more contexts.",
                    stacklevel=2,
                )
        self._rates_of_even, self._rates_of_odd = (
            _measure(batch, masked_BL, half_B) for half_B in halves
        )

    def choose(self, batch: Batch, deterministic: bool) -> np.ndarray:
        odd_B = self._odd(batch)
        chance_BL = np.zeros(batch.maskable_BL.shape)
        for rows_B, rates in ((~odd_B, self._rates_of_even), (odd_B, self._rates_of_odd)):
            ids_RL, maskable_RL = batch.input_ids_BL[rows_B], batch.maskable_BL[rows_B]
            known_RL = ids_RL < len(rates.known_V)
            ids_RL = np.where(known_RL, ids_RL, 0)
            known_RL &= rates.known_V[ids_RL]
            weights_RL = np.where(known_RL, rates.weight_V[ids_RL], rates.unseen) * maskable_RL
            chance_BL[rows_B] = inclusion(weights_RL, rates.fill * batch.budget_B[rows_B])
        return np.stack([systematic(chance_L, self._rng) for chance_L in chance_BL])

    def _odd(self, batch: Batch) -> np.ndarray:
        """Which contexts belong to the odd half, bool (B,)."""
        return _context_ids(batch) & self._digit != 0


def _context_ids(batch: Batch) -> np.ndarray:
    """The id of each context, int64 (B,); 0 without ids."""
    rows = len(batch.maskable_BL)
    ids_B = np.reshape(batch.observation.get("context_id", np.zeros(rows)), rows)
    return ids_B.astype(np.int64)


def _measure(batch: Batch, masked_BL: np.ndarray, rows_B: np.ndarray) -> _Rates:
    """Of the policy's masks in some of the contexts."""
    maskable_RL, masked_RL = batch.maskable_BL[rows_B], masked_BL[rows_B]
    ids_RL = np.where(maskable_RL, batch.input_ids_BL[rows_B], 0)
    ids = ids_RL[maskable_RL]
    seen_V = np.bincount(ids)
    target_V = np.bincount(ids, weights=masked_RL[maskable_RL])
    weight_V = target_V / np.maximum(seen_V, 1)
    size_R = masked_RL.sum(1)
    for _ in range(ROUNDS):
        chance_RL = inclusion(weight_V[ids_RL] * maskable_RL, size_R)
        reached_V = np.bincount(ids, weights=chance_RL[maskable_RL])
        weight_V *= np.where(reached_V > 0, target_V / np.maximum(reached_V, 1e-12), 1.0)
        weight_V /= max(weight_V.max(), 1e-12)
    fill = float(masked_RL.sum() / max(batch.budget_B[rows_B].sum(), 1))
    return _Rates(weight_V, seen_V > 0, float(weight_V[ids].mean()), fill)


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
