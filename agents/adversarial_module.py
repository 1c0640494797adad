"""The dynamic masking module of adversarial masking, and what it minimises.

Shapes: B contexts, L tokens, V vocabulary, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents import budgeted
from agents.attention_block import AttentionBlock
from agents.real_tokens import RealTokens


@dataclass(frozen=True)
class AdversarySettings:
    """The masking module and how it learns."""

    width: int = 64
    """Width of the module."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads; they divide the width."""
    learning_rate: float = 1e-3
    """Of Adam, one step a batch."""
    entropy_floor: float = 0.7
    """Least entropy of the choice, as a share of that of a uniform one."""
    floor_weight: float = 10.0
    """Weight of falling below the floor."""
    memory: float = 0.98
    """Share of the running mean and deviation of the losses that a batch leaves as it was."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % (2 * self.heads):
            raise ValueError(
                f"width is {self.width} and heads {self.heads}; the width must be a multiple of "
                "twice the heads."
            )
        for name in ("entropy_floor", "memory"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1).")


class ScoringModule(nn.Module):
    """Scores tokens by their ids and their neighbours; uniform before it has learned.

    Args:
        vocab_size: V.
        settings: width, layers, heads.
    """

    def __init__(self, vocab_size: int, settings: AdversarySettings) -> None:
        super().__init__()
        width = settings.width
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList(
            AttentionBlock(width, settings.heads) for _ in range(settings.layers)
        )
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, input_ids_BL: Tensor, real_BL: Tensor) -> Tensor:
        """Scores, (B, L); padding is not looked at."""
        x_BLW = self.embedding(input_ids_BL)
        x_BLW = x_BLW + _positions(x_BLW.shape[1], x_BLW.shape[2]).to(x_BLW)
        tokens = RealTokens(real_BL)
        x_TW = tokens.take(x_BLW)
        for layer in self.layers:
            x_TW = layer(x_TW, tokens)
        return tokens.put(self.score(x_TW)).squeeze(-1)


def _positions(length: int, width: int) -> Tensor:
    """Sinusoidal positions, (L, W) (Vaswani et al. 2017)."""
    rate_W = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle_LW = torch.arange(length)[:, None] * rate_W
    return torch.stack([angle_LW.sin(), angle_LW.cos()], dim=2).flatten(1)


class RunningLoss(nn.Module):
    """Running mean and deviation of token losses: baseline and unit of the module's loss."""

    mean: Tensor
    square: Tensor
    weight: Tensor

    def __init__(self, memory: float) -> None:
        super().__init__()
        self.memory = memory
        for name in ("mean", "square", "weight"):
            self.register_buffer(name, torch.zeros(()))

    def update(self, losses_N: Tensor) -> None:
        """Take in the losses of a batch."""
        for total, value in (
            (self.mean, losses_N.mean()),
            (self.square, losses_N.square().mean()),
            (self.weight, torch.ones(())),
        ):
            total.mul_(self.memory).add_(value.to(total), alpha=1 - self.memory)

    def standardised(self, losses_N: Tensor) -> Tensor:
        """Losses above the mean, in deviations."""
        mean, square = self.mean / self.weight, self.square / self.weight
        return (losses_N - mean) / (square - mean**2).clamp_min(1e-6).sqrt()


def adversarial_loss(
    scores_BL: Tensor,
    maskable_BL: Tensor,
    mask_BL: Tensor,
    advantage_BL: Tensor,
    settings: AdversarySettings,
) -> tuple[Tensor, Tensor]:
    """What the module minimises.

    Args:
        scores_BL: of the module.
        maskable_BL: bool, the tokens it chose from.
        mask_BL: bool, those it chose.
        advantage_BL: standardised loss of the language model at the chosen tokens, no gradient.
        settings: floor and its weight.

    Returns:
        The loss, and the mean entropy as a share of a uniform choice's.
    """
    log_probs_BL = budgeted.token_log_probs(scores_BL, maskable_BL)
    chosen_N = log_probs_BL[mask_BL]
    gain = (advantage_BL[mask_BL].detach() * chosen_N).sum() / max(1, len(chosen_N))
    count_B = maskable_BL.sum(dim=1)
    # Where there is at most one token to choose there is no choice to be made evenly.
    choice_B = (count_B > 1).float()
    entropy_B = budgeted.entropy(log_probs_BL) / count_B.clamp(min=2).log() + (1 - choice_B)
    below = (settings.entropy_floor - entropy_B).clamp(min=0).mean()
    return settings.floor_weight * below - gain, entropy_B.mean().detach()
