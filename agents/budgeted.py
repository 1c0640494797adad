"""A distribution over the subsets of a context's tokens that keep within a budget.

A policy gives each token a score. Adding independent Gumbel noise to the scores and keeping the
k largest draws k tokens *without replacement* from softmax(scores): the first token has exactly
the softmax probability, the second that of the softmax without the first, and so on (the
Plackett-Luce model; Kool, van Hoof and Welling, 2019). Without noise it is the most likely start
of every draw, the deterministic mask.

Shapes: B contexts, L tokens. ``maskable_BL`` is bool; the budget is cut to the maskable tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def top_k(scores_BL: Tensor, maskable_BL: Tensor, budget_B: Tensor) -> Tensor:
    """The ``budget`` maskable tokens of highest score, bool (B, L); ties go to the earlier one."""
    allowed_BL = scores_BL.masked_fill(~maskable_BL, -torch.inf)
    order_BL = allowed_BL.argsort(dim=1, descending=True, stable=True)
    count_B = torch.minimum(budget_B, maskable_BL.sum(dim=1))
    chosen_BL = torch.arange(scores_BL.shape[1], device=scores_BL.device) < count_B[:, None]
    return torch.zeros_like(maskable_BL).scatter(1, order_BL, chosen_BL)


def sample(
    scores_BL: Tensor, maskable_BL: Tensor, budget_B: Tensor, noise_BL: np.ndarray
) -> Tensor:
    """Draw ``budget`` tokens without replacement, bool (B, L).

    Args:
        scores_BL: unnormalised log-probabilities.
        maskable_BL: the tokens to choose from.
        budget_B: how many, integers.
        noise_BL: standard Gumbel noise, e.g. ``generator.gumbel(size=(B, L))``.
    """
    noise = torch.as_tensor(noise_BL, dtype=scores_BL.dtype, device=scores_BL.device)
    return top_k(scores_BL + noise, maskable_BL, budget_B)


def token_log_probs(scores_BL: Tensor, maskable_BL: Tensor) -> Tensor:
    """Log-probability that a token is the first one drawn, (B, L); -inf where not maskable.

    Unlike a test for ``score == 0``, the mask is a mask: a real token may have any score. A
    context without a maskable token has -inf everywhere and spreads no NaN.
    """
    allowed_BL = scores_BL.masked_fill(~maskable_BL, -torch.inf)
    empty_B1 = ~maskable_BL.any(dim=1, keepdim=True)
    safe_BL = allowed_BL.masked_fill(empty_B1, 0.0)
    return safe_BL.log_softmax(dim=1).masked_fill(~maskable_BL, -torch.inf)


def entropy(log_probs_BL: Tensor) -> Tensor:
    """Entropy of the first draw in nats, (B,)."""
    finite_BL = log_probs_BL.masked_fill(log_probs_BL.isinf(), 0.0)
    return -(log_probs_BL.exp() * finite_BL).sum(dim=1)
