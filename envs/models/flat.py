"""All weights of a model in one buffer, all gradients in another, both standing.

One copy restores the model, one kernel steps its optimiser, one norm clips it, and no step
allocates a gradient: that of the vocabulary-sized embedding is half of a small model, and to write
it anew each step costs more in page faults than the optimiser does in arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
