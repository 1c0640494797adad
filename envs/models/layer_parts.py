"""Parts of layers whose operations between two matrix products are one pass here.

In BERT and its kin the output of the attention, and of the feed-forward network, meets the residual
stream in a module of its own (a product, dropout, the sum, its normalisation), and the first half
of the feed-forward network is one (a product, GELU). They are found by what they hold and by what
they compute, whatever they are called. Where the C code is not for them they do as they did.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.models.dropout import FastDropout
from envs.models.native.layers import STEP, NativeGelu, NativeJoin
from envs.models.native.library import runs_here
from envs.models.seeding import forked, seed_torch
from envs.models.standing import StandingLinear, remember_lowered, stands


class _Join(nn.Module):
    """Mixed into modules that compute ``norm(dropout(linear(x)) + residual)``.

    Of x (..., E) and a residual (..., D), float32 (..., D).
    """

    names: tuple[str, str, str]
    """Of linear, dropout and norm."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        linear, dropout, norm = (getattr(self, name) for name in self.names)
        rate = dropout.p if dropout.training else 0.0
        fits = residual.dtype == torch.float32 and residual.shape[:-1] == x.shape[:-1] and rate < 1
        if not (fits and _takes(x, stands(linear, norm))):
            return super().forward(x, residual)
        product = linear.product(x)
        output, low = NativeJoin.apply(product, linear.bias, residual, norm, rate)
        if low is not None:
            remember_lowered(output, low)
        return output

    @staticmethod
    def plain(
        x: Tensor, residual: Tensor, linear: nn.Module, dropout: nn.Module, norm: nn.Module
    ) -> Tensor:
        return norm(dropout(linear(x)) + residual)


class _Gelu(nn.Module):
    """Mixed into modules that compute ``gelu(linear(x))``, (..., D) of x (..., E)."""

    names: tuple[str, str]
    """Of linear and the activation."""

    def forward(self, x: Tensor) -> Tensor:
        linear = getattr(self, self.names[0])
        if not _takes(x, stands(linear)):
            return super().forward(x)
        return NativeGelu.apply(linear.product(x), linear.bias)

    @staticmethod
    def plain(x: Tensor, linear: nn.Module, activation: nn.Module) -> Tensor:
        return F.gelu(linear(x))


def _takes(x: Tensor, trains: bool) -> bool:
    known = (
        not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    return known and (trains or not torch.is_grad_enabled()) and runs_here(x)


def use_fast_parts(model: nn.Module) -> None:
    """Let those modules of a model that are such parts run as C; its linear layers and dropout must
    be the fast ones already."""
    for kind in {type(module) for module in model.modules()}:
        alike = [module for module in model.modules() if type(module) is kind]
        fast = _fast(alike[0])
        if fast is not None and all(_fits(m) for m in alike) and _computes(alike[0], fast):
            for module in alike:
                module.__class__ = fast


def _fast(module: nn.Module) -> type[_Join] | type[_Gelu] | None:
    """A class for modules that hold what this one holds."""
    from transformers.activations import GELUActivation

    names = {type(child): name for name, child in module.named_children()}
    count = len(list(module.children()))
    parts: dict[Any, tuple[type[nn.Module], ...]] = {
        _Join: (StandingLinear, FastDropout, nn.LayerNorm),
        _Gelu: (StandingLinear, GELUActivation),
    }
    for part, held in parts.items():
        if count == len(held) and names.keys() == set(held):
            kind, attributes = type(module), {"names": tuple(names[k] for k in held)}
            made: Any = type(kind.__name__, (part, kind), attributes)
            return made
    return None


def _fits(module: nn.Module) -> bool:
    """Whether the C code takes a module's parameters."""
    vectors: list[Tensor | None] = []
    width = 0
    for child in module.children():
        if isinstance(child, nn.Linear):
            width = child.out_features
            vectors.append(child.bias)
        elif isinstance(child, nn.LayerNorm):
            vectors += [child.weight, child.bias]
    return width % STEP == 0 and all(x is not None and x.shape == (width,) for x in vectors)


def _computes(module: nn.Module, fast: type[_Join] | type[_Gelu]) -> bool:
    """Whether a module computes what the class stands for, dropout included."""
    children: list[Any] = [getattr(module, name) for name in fast.names]
    was = module.training
    module.train()
    with forked(), torch.no_grad():
        given: list[Any] = [torch.randn(4, children[0].in_features)]
        if issubclass(fast, _Join):
            given.append(torch.randn(4, children[0].out_features))
        seed_torch(0)
        plain = fast.plain(*given, *children)
        seed_torch(0)
        try:
            return torch.equal(module(*given), plain)
        except (TypeError, ValueError, RuntimeError):  # it wants something else
            return False
        finally:
            module.train(was)
