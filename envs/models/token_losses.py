"""Cross-entropy over a vocabulary in few passes, on a CPU.

The library's way writes three tensors of the logits' size: log-probabilities, their gradient (zeros
but for one place a row) and the logits' gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.models.native.layers import NativeLosses
from envs.models.native.library import runs_here

LOST = 80.0
"""Nats from which a probability in float32 is small enough to lose digits."""


def token_losses(logits_MV: Tensor, targets_K: Tensor) -> Tensor:
    """Cross-entropy of the first K rows, in nats, (K,); rows beyond them count for nothing.

    Equals ``F.cross_entropy(logits_MV[:K].float(), targets_K, reduction="none")`` to rounding. Its
    gradient can be taken once.

    Raises:
        IndexError or RuntimeError: for a target that is no column.
    """
    if runs_here(logits_MV):
        return NativeLosses.apply(logits_MV, targets_K)
    logits_MV = logits_MV.float()
    if logits_MV.device.type != "cpu":  # where passes are cheap and looking at a value is not
        return F.cross_entropy(logits_MV[: len(targets_K)], targets_K, reduction="none")
    return _TokenLosses.apply(logits_MV, targets_K)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, targets_K: Tensor) -> Tensor:
        probabilities_MV = torch.softmax(logits_MV, dim=-1)
        ctx.probabilities_MV, ctx.targets_K = probabilities_MV, targets_K
        losses_K = -probabilities_MV[: len(targets_K)].gather(1, targets_K[:, None])[:, 0].log()
        if (losses_K > LOST).any():
            losses_K = F.cross_entropy(logits_MV[: len(targets_K)], targets_K, reduction="none")
        return losses_K

    @staticmethod
    def backward(ctx: Any, grad_K: Tensor) -> tuple[Tensor, None]:
        # Taken, so that a second pass fails: this one overwrites the probabilities.
        probabilities_MV, ctx.probabilities_MV = ctx.probabilities_MV, None
        count = len(grad_K)
        probabilities_MV[count:] = 0
        probabilities_MV[:count].mul_(grad_K[:, None])
        probabilities_MV[:count].scatter_add_(1, ctx.targets_K[:, None], -grad_K[:, None])
        return probabilities_MV, None
