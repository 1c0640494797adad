"""All weights of a model in one buffer, all gradients in another, both standing.

One copy restores the model, one kernel steps its optimiser, one norm clips it, and no step
allocates a gradient: that of the vocabulary-sized embedding is half of a small model, and to write
it anew each step costs more in page faults than the optimiser does in arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FlatParameters:
    """Lays a module's parameters, and gradients for them, in one float32 buffer each.

    The module's parameters become views. Shared parameters are laid once. Clear gradients with
    :meth:`zero_grad`, never with the module's own (which would drop the views).

    Attributes:
        parameter: all weights, a leaf of shape (P,) whose ``grad`` holds all gradients.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        weights = torch.cat([p.detach().float().reshape(-1) for p in parameters])
        self.parameter = nn.Parameter(weights)
        self.parameter.grad = torch.zeros_like(weights)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.data = self.parameter.data[start:end].view(parameter.shape)
            parameter.grad = self.parameter.grad[start:end].view(parameter.shape)
            start = end

    @property
    def weights(self) -> Tensor:
        return self.parameter.data

    def zero_grad(self) -> None:
        assert self.parameter.grad is not None
        self.parameter.grad.zero_()


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_VD: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight_VD, ctx.padding = weight_VD, padding
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight_VD)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        flat_ids, rows = ids.reshape(-1), grad.reshape(-1, grad.shape[-1])
        if ctx.padding is not None:
            rows = rows.masked_fill((flat_ids == ctx.padding)[:, None], 0.0)
        ctx.weight_VD.grad.index_add_(0, flat_ids, rows.to(ctx.weight_VD.dtype))
        return None, None, None


class StandingEmbedding(nn.Embedding):
    """An embedding whose gradient is added to the standing buffer, row by row.

    The usual backward pass makes a vocabulary-sized tensor of zeros each step to fill in the few
    rows that a batch touches.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.weight.requires_grad and self.weight.grad is not None:
            return _Lookup.apply(self.weight, input, self.padding_idx)
        return super().forward(input)


def use_standing_embedding(model: Any) -> None:
    """Give the model's token embedding a standing gradient, where it is a plain one."""
    embedding = model.get_input_embeddings()
    plain = type(embedding) is nn.Embedding and embedding.max_norm is None
    if plain and not (embedding.sparse or embedding.scale_grad_by_freq):
        embedding.__class__ = StandingEmbedding
