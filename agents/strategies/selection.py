"""From scores or spans to a mask within the budget."""

from __future__ import annotations

import numpy as np

from agents.strategies.base import Batch, ContextView, Spans


def uniform_draws(batch: Batch, rng: np.random.Generator) -> np.ndarray:
    """A number in [0, 1) for each maskable token, context by context; 0 elsewhere, (B, L)."""
    draws_BL = np.zeros(batch.maskable_BL.shape)
    draws_BL[batch.maskable_BL] = rng.random(int(batch.maskable_BL.sum()))
    return draws_BL


def gumbel(uniform: np.ndarray) -> np.ndarray:
    """Standard Gumbel noise from uniform draws.

    The top k of log-weights plus this noise are a draw of k without replacement by those weights
    (Kool et al. 2019, "Stochastic Beams and Where to Find Them").
    """
    return -np.log(-np.log(np.clip(uniform, 1e-300, 1 - 1e-16)))


def highest(batch: Batch, scores_BL: np.ndarray, ties_BL: np.ndarray | None = None) -> np.ndarray:
    """The budget's worth of maskable tokens with the highest scores, bool (B, L).

    Args:
        batch: the contexts.
        scores_BL: any numbers; ``-inf`` keeps a token out even if the budget is not filled.
        ties_BL: orders equal scores, the higher first; ``None`` takes them from the left.
    """
    allowed_BL = batch.maskable_BL & (scores_BL > -np.inf)
    low_first_BL = np.where(allowed_BL, -scores_BL, np.inf)
    if ties_BL is None:
        order_BL = np.argsort(low_first_BL, axis=1, kind="stable")
    else:
        order_BL = np.lexsort((-ties_BL, low_first_BL), axis=1)
    mask_BL = np.zeros_like(batch.maskable_BL)
    ranks_L = np.arange(mask_BL.shape[1])
    np.put_along_axis(mask_BL, order_BL, ranks_L < batch.budget_B[:, None], axis=1)
    return mask_BL & allowed_BL


def add_spans(mask_L: np.ndarray, view: ContextView, spans: Spans) -> None:
    """Mask spans in the order given, in place; one that does not fit is left out whole.

    A span does not fit if it is longer than what is left of the budget, meets a masked token or
    holds one that must not be masked. Shorter spans after it may still fill the rest.
    """
    left = view.budget - int(mask_L.sum())
    for start, end in zip(spans[0].tolist(), spans[1].tolist(), strict=True):
        if left <= 0:
            return
        fits = end - start <= left and view.maskable_L[start:end].all()
        if fits and not mask_L[start:end].any():
            mask_L[start:end] = True
            left -= end - start


def fill_up(mask_L: np.ndarray, view: ContextView, rng: np.random.Generator) -> None:
    """Mask random tokens, in place, until the budget is full."""
    left = view.budget - int(mask_L.sum())
    if left > 0:
        free = np.flatnonzero(view.maskable_L & ~mask_L)
        mask_L[rng.permutation(free)[:left]] = True


def shuffled_spans(spans: Spans, rng: np.random.Generator) -> Spans:
    """The same spans in random order."""
    order = rng.permutation(len(spans[0]))
    return spans[0][order], spans[1][order]


def as_spans(pairs: list[tuple[int, int]]) -> Spans:
    """(start, end) pairs as two arrays."""
    array = np.asarray(pairs, np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]
