"""Attention of packed batches in C (``attention.c``).

One call does all sequences and heads of a layer: scores never leave the cache, nothing is cut out
or put together, and no operation is launched for each sequence.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from envs.models.dropout import draw_dropped
from envs.models.native.library import library, set_number

if TYPE_CHECKING:
    from envs.models.attention import PackedLayout


class _Batch(ctypes.Structure):
    """``struct batch`` of ``attention.c``."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("sequences", "heads", "width", "rows", "low", "window")
        ),
        *(("dropped", ctypes.c_int64), ("lengths", ctypes.c_void_p)),
        *(("counted", ctypes.c_void_p), ("places", ctypes.c_void_p)),
        *(("scale", ctypes.c_float), ("kept", ctypes.c_float)),
    )


class NativeAttention(torch.autograd.Function):
    """Attention within each sequence, with dropout of the weights; (T, H, D), zeros at filling."""

    @staticmethod
    def forward(
        ctx: Any,
        query_THD: Tensor,
        key_THD: Tensor,
        value_THD: Tensor,
        scale: float,
        rate: float,
        layout: PackedLayout,
        window: int,
    ) -> Tensor:
        inputs = [x.to(query_THD.dtype).contiguous() for x in (query_THD, key_THD, value_THD)]
        rows, heads, width = query_THD.shape
        lengths, counted = np.array((layout.lengths, layout.counted), dtype=np.int64)
        places = draw_dropped(int((counted**2).sum()) * heads, rate)
        batch = _Batch(
            *(len(lengths), heads, width, rows, query_THD.dtype == torch.bfloat16, window),
            *(len(places), lengths.ctypes.data, counted.ctypes.data, places.data_ptr()),
            *(scale, 1.0 / (1.0 - rate)),
        )
        output = torch.empty_like(inputs[0])
        log_sums_TH = torch.empty((rows, heads)) if any(ctx.needs_input_grad) else None
        _call("nmg_forward", batch, [*inputs, output, log_sums_TH])
        if log_sums_TH is not None:
            ctx.save_for_backward(*inputs, log_sums_TH)
            ctx.batch, ctx.pointed_to = batch, (lengths, counted, places)
        return output

    @staticmethod
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grads = [torch.empty_like(grad_THD, memory_format=torch.contiguous_format) for _ in "qkv"]
        _call("nmg_backward", ctx.batch, [*saved, grad_THD.contiguous(), *grads])
        return *grads, None, None, None, None


def _call(name: str, batch: _Batch, tensors: Sequence[Tensor | None]) -> None:
    pointers = [None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors]
    if getattr(library(), name)(ctypes.byref(batch), set_number(), *pointers):
        raise MemoryError(f"No memory for the attention of {batch.rows} tokens.")
