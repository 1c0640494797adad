"""Layers whose weight gradients are added straight into the standing buffer of ``flat.py``.

Autograd's own way is to make a gradient tensor for every weight and then add it to ``grad``. For a
vocabulary-sized weight that tensor is half of a small model, and to write it anew each step costs
more in page faults than the product that fills it.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.models.native.products import linear, multiply

ROWS_OF_ELEMENTS = 1 << 20
"""Elements of a weight whose gradient is computed at once before it is added: stays in cache."""


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
        settle(ctx.weight_VD)
        ctx.weight_VD.grad.index_add_(0, flat_ids, rows.to(ctx.weight_VD.dtype))
        return None, None, None


class StandingEmbedding(nn.Embedding):
    """An embedding whose gradient is added to the standing buffer, row by row.

    The usual backward pass makes a vocabulary-sized tensor of zeros each step to fill in the few
    rows that a batch touches.
    """

    rows: tuple[nn.Parameter, Tensor] | None = None
    """A copy of the rows in use, (R, D), to be read and trained instead, and every token's place in
    it, (V,); see ``token_rows.py``."""

    def forward(self, input: Tensor) -> Tensor:
        if self.rows is not None:
            rows_RD, places_V = self.rows
            padding = None if self.padding_idx is None else int(places_V[self.padding_idx])
            return _Lookup.apply(rows_RD, places_V[input], padding)
        if stands(self):
            return _Lookup.apply(self.weight, input, self.padding_idx)
        return super().forward(input)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = x.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        ctx.weight, ctx.bias = weight, bias
        x, low_weight = _lowered(x, low), weight.to(low)
        ctx.save_for_backward(x, low_weight)
        if low != weight.dtype:
            return F.linear(x, low_weight, None if bias is None else bias.to(low))
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        x, low_weight = ctx.saved_tensors
        grad_TN, x_TD = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        _add_product(ctx.weight, grad_TN.t(), x_TD)
        if ctx.bias is not None:
            ctx.bias.grad.add_(grad_TN.sum(0))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        return multiply(grad_TN, low_weight).view(x.shape), None, None


_newest: tuple[weakref.ref[Tensor], int, Tensor] | None = None


def _lowered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``; not twice for layers that read the same, as queries, keys and values do."""
    if x.dtype == dtype:
        return x
    if _newest is not None:
        source, version, low = _newest
        if source() is x and x._version == version and low.dtype == dtype:
            return low
    low = x.to(dtype)
    remember_lowered(x, low)
    return low


def remember_lowered(x: Tensor, low: Tensor) -> None:
    """Let the layers that read ``x`` next take ``low`` for it."""
    global _newest
    _newest = weakref.ref(x), x._version, low


def _add_product(weight_ND: nn.Parameter, grad_NT: Tensor, x_TD: Tensor) -> None:
    """``weight.grad += grad @ x``, some rows at a time."""
    total_ND = weight_ND.grad
    assert total_ND is not None
    is_first = _take_unwritten(weight_ND)
    rows = max(1, ROWS_OF_ELEMENTS // total_ND.shape[1])
    for first in range(0, len(total_ND), rows):
        part = slice(first, first + rows)
        multiply(grad_NT[part], x_TD, total_ND[part], add=not is_first)


def leave_unwritten(weight: nn.Parameter) -> None:
    """Let the first that adds to a weight's gradient write it instead, whatever it holds."""
    weight.unwritten = True  # type: ignore[attr-defined]


def settle(weight: nn.Parameter) -> None:
    """Zero a gradient that was left unwritten and still is."""
    if _take_unwritten(weight):
        assert weight.grad is not None
        weight.grad.zero_()


def _take_unwritten(weight: nn.Parameter) -> bool:
    was = getattr(weight, "unwritten", False)
    if was:
        weight.unwritten = False  # type: ignore[attr-defined]
    return was


class StandingLinear(nn.Linear):
    """A linear layer whose gradients are added to the standing buffers."""

    def forward(self, input: Tensor) -> Tensor:
        if stands(self):
            return _Product.apply(input, self.weight, self.bias)
        if _is_plain_float(input):
            return linear(input, self.weight, self.bias)
        return super().forward(input)

    def product(self, input: Tensor) -> Tensor:
        """The same without the bias."""
        if stands(self):
            return _Product.apply(input, self.weight, None)
        if _is_plain_float(input):
            return linear(input, self.weight)
        return F.linear(input, self.weight)


def _is_plain_float(x: Tensor) -> bool:
    """Whether a product with states is float32, on a CPU and without gradients."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return not torch.is_autocast_enabled("cpu")


def stands(*layers: nn.Module) -> bool:
    """Whether layers are being trained and all their gradients stand, on a CPU."""
    if not torch.is_grad_enabled():
        return False
    for layer in layers:
        if not layer.training:
            return False
        for p in layer._parameters.values():  # an iterator of the module's costs ten times this
            if p is not None and (p.grad is None or not p.requires_grad or p.device.type != "cpu"):
                return False
    return True


def use_standing_gradients(model: nn.Module) -> None:
    """Give the model's plain embeddings and linear layers standing gradients."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = StandingLinear
        elif type(module) is nn.Embedding and _is_plain(module):
            module.__class__ = StandingEmbedding


def _is_plain(embedding: nn.Embedding) -> bool:
    return not (embedding.sparse or embedding.scale_grad_by_freq or embedding.max_norm is not None)
