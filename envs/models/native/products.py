"""Products of matrices by matrix instructions for bfloat16 (``products.c``): of float32 matrices,
exact, and weights' gradients of bfloat16."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from envs.models.native.library import instruction_set, library, runs_here

SMALLEST = 128, 64
"""Rows and columns, and depth, from which on the C code is the faster one."""
_in_use = False


def multiply(a: Tensor, b: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """``a @ b``, (M, K) times (K, N), written or added to ``out``; no gradients.

    Of bfloat16 matrices ``out`` may be float32; with the C code no sum is then rounded to bfloat16.
    """
    assert not (add and out is None)
    if _in_use and _fits(a, b, out):
        if out is None:
            out = a.new_empty((len(a), b.shape[1]))
        return _product(a, b, out, *((out, out.stride(0)) if add else (None, 0)))
    if out is None:
        return a @ b
    if out.dtype != a.dtype:
        return out.add_(a @ b) if add else out.copy_(a @ b)
    return out.addmm_(a, b) if add else torch.mm(a, b, out=out)


def linear(x: Tensor, weight_ND: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, (..., N) of x (..., D) in the weight's precision; no gradients."""
    output = x.new_empty((*x.shape[:-1], len(weight_ND)))
    x_TD, output_TN = x.reshape(-1, x.shape[-1]), output.view(-1, len(weight_ND))
    if _in_use and _fits(x_TD, weight_ND.t(), output_TN):
        bias_N = None if bias_N is None else bias_N.contiguous()
        return _product(x_TD, weight_ND.t(), output_TN, bias_N, 0).view(output.shape)
    torch.mm(x_TD, weight_ND.t(), out=output_TN)
    # A tenth faster than the product with a bias.
    return output if bias_N is None else output.add_(bias_N)


def use_exact_tiles(use: bool = True) -> bool:
    """Let the products here use the processor's matrix instructions; whether it has them."""
    global _in_use
    _in_use = use and instruction_set() == "amx"
    return _in_use


def _fits(a: Tensor, b: Tensor, out: Tensor | None) -> bool:
    if a.dtype == torch.bfloat16:
        known = (
            out is not None
            and out.dtype == torch.float32
            and b.dtype == a.dtype
            and a.stride(0) == b.stride(1) == 1
        )
    else:
        known = a.dtype == b.dtype == torch.float32 and all(1 in x.stride() for x in (a, b))
    return (
        known
        and min(len(a), b.shape[1]) >= SMALLEST[0]
        and a.shape[1] >= SMALLEST[1]
        and runs_here(a)
        and min(*a.stride(), *b.stride()) > 0
        and (out is None or out.stride(1) == 1)
    )


def _product(a: Tensor, b: Tensor, out: Tensor, addend: Tensor | None, stride: int) -> Tensor:
    """``a @ b + addend`` into ``out``; a stride of 0 adds one row to all."""
    if _function()(
        *(len(a), b.shape[1], a.shape[1], a.dtype == torch.bfloat16, a.data_ptr(), *a.stride()),
        *(b.data_ptr(), *b.stride(), out.data_ptr(), out.stride(0)),
        *(None if addend is None else addend.data_ptr(), stride),
    ):
        raise MemoryError("No memory for a matrix product.")
    return out


@cache
def _function() -> Callable[..., int]:
    found = library()
    assert found is not None
    product = found.nmg_product
    size, pointer = ctypes.c_long, ctypes.c_void_p
    product.argtypes = [
        *(size, size, size, ctypes.c_int, pointer, size, size),
        *(pointer, size, size, pointer, size, pointer, size),
    ]
    return product
