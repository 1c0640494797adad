"""Passes over states between a layer's matrix products, in C (``layers.c``).

Gradients of parameters are added to their standing ``grad``, as in ``standing.py``. Backward passes
write over what the forward pass kept, so each can be taken once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from envs.models.dropout import draw_dropped
from envs.models.native.library import library, set_number

STEP = 16
"""Widths must be multiples of it."""
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


class _Join(ctypes.Structure):
    """``struct join`` of ``layers.c``."""

    _fields_ = (
        *((name, _LONG) for name in ("rows", "width", "low", "dropped")),
        *(("places", _POINTER), ("kept", ctypes.c_float), ("epsilon", ctypes.c_float)),
    )


class NativeJoin(torch.autograd.Function):
    """``norm(dropout(x + bias) + residual)``, (..., D) float32; x is written over.

    Also the same in bfloat16, without a gradient, where x is bfloat16 and trained: the next
    product reads it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor,
        residual: Tensor,
        norm: nn.LayerNorm,
        rate: float,
    ) -> tuple[Tensor, Tensor | None]:
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        residual, low = residual.contiguous(), x.dtype == torch.bfloat16
        places = draw_dropped(x.numel(), rate)
        join = _Join(
            *(rows, width, low, len(places), places.data_ptr()), 1.0 / (1.0 - rate), norm.eps
        )
        output = torch.empty_like(residual)
        normal = inverse = low_output = None
        if ctx.needs_input_grad[0]:
            ctx.set_materialize_grads(False)
            if low:
                low_output = torch.empty_like(output, dtype=torch.bfloat16)
                ctx.mark_non_differentiable(low_output)
            normal = torch.empty_like(residual) if low else x
            inverse = torch.empty(rows)
            ctx.join, ctx.places, ctx.normal, ctx.inverse = join, places, normal, inverse
            ctx.bias, ctx.norm = bias, norm
        parameters = (bias, residual, norm.weight, norm.bias)
        kept = (normal, inverse, output, low_output)
        _call("join_forward", ctypes.byref(join), set_number(), x, *parameters, *kept)
        return output, low_output

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        normal, ctx.normal = ctx.normal, None
        low = bool(ctx.join.low)
        d_x = torch.empty_like(normal, dtype=torch.bfloat16) if low else normal
        d_residual = torch.empty_like(normal)
        grads = (ctx.bias.grad, ctx.norm.weight.grad, ctx.norm.bias.grad)
        given = (grad.contiguous(), normal, ctx.inverse, ctx.norm.weight)
        _call(
            "join_backward", ctypes.byref(ctx.join), set_number(), *given, d_x, d_residual, *grads
        )
        return d_x, None, d_residual, None, None


class NativeGelu(torch.autograd.Function):
    """``gelu(x + bias)``, (..., D) as x is, which is written over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        trains = ctx.needs_input_grad[0]
        output = torch.empty_like(x) if trains else x
        _call("gelu_forward", set_number(), *_shape(x), x, bias, output)
        if trains:
            ctx.x, ctx.bias = x, bias
        else:
            ctx.mark_dirty(x)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, ctx.x = ctx.x, None
        _call(
            "gelu_backward",
            set_number(),
            *_shape(x),
            grad.contiguous(),
            x,
            ctx.bias,
            x,
            ctx.bias.grad,
        )
        return x, None


class NativeLosses(torch.autograd.Function):
    """Cross-entropy of the first K rows of logits_MV, in nats, float32 (K,)."""

    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, targets_K: Tensor) -> Tensor:
        logits_MV = logits_MV.contiguous()
        log_sums_K, losses_K = torch.empty(len(targets_K)), torch.empty(len(targets_K))
        shape = len(targets_K), *_shape(logits_MV)[1:]
        if _call(
            "losses_forward", set_number(), *shape, logits_MV, targets_K, log_sums_K, losses_K
        ):
            raise IndexError(f"A target is none of {shape[1]} words.")
        ctx.save_for_backward(logits_MV, targets_K, log_sums_K)
        return losses_K

    @staticmethod
    def backward(ctx: Any, grad_K: Tensor) -> tuple[Tensor, None]:
        logits_MV, targets_K, log_sums_K = ctx.saved_tensors
        d_logits_MV = torch.empty_like(logits_MV)
        d_logits_MV[len(targets_K) :] = 0
        shape = len(targets_K), *_shape(logits_MV)[1:]
        given = (logits_MV, targets_K, log_sums_K, grad_K.contiguous())
        _call("losses_backward", set_number(), *shape, *given, d_logits_MV)
        return d_logits_MV, None


def _shape(x: Tensor) -> tuple[int, int, bool]:
    """Rows, their width, and whether they are bfloat16."""
    return x.numel() // x.shape[-1], x.shape[-1], x.dtype == torch.bfloat16


def _call(name: str, *arguments: Any) -> int | None:
    return _function(name)(*(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments))


@cache
def _function(name: str) -> Callable[..., int | None]:
    shape = [_INT, _LONG, _LONG, _INT]
    arguments = {
        "join_forward": [_POINTER, _INT, *[_POINTER] * 9],
        "join_backward": [_POINTER, _INT, *[_POINTER] * 9],
        "gelu_forward": [*shape, *[_POINTER] * 3],
        "gelu_backward": [*shape, *[_POINTER] * 5],
        "losses_forward": [*shape, *[_POINTER] * 4],
        "losses_backward": [*shape, *[_POINTER] * 5],
    }
    found = library()
    assert found is not None
    function = getattr(found, f"nmg_{name}")
    function.argtypes = arguments[name]
    function.restype = _INT if name == "losses_forward" else None
    return function
