"""Products of float32 matrices by matrix instructions for bfloat16, exact (``products.c``)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from envs.models.native.library import instruction_set, library, runs_here

SMALLEST = 128
"""Rows, columns and depth from which on the C code is the faster one."""
_in_use = False


def multiply(a: Tensor, b: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """``a @ b``, (M, K) times (K, N), written or added to ``out``; no gradients."""
    if _in_use and _fits(a, b, out):
        assert not (add and out is None)
        if out is None:
            out = a.new_empty((len(a), b.shape[1]))
        if _product()(
            *(len(a), b.shape[1], a.shape[1], a.data_ptr(), *a.stride()),
            *(b.data_ptr(), *b.stride(), out.data_ptr(), out.stride(0), add),
        ):
            raise MemoryError("No memory for a matrix product.")
        return out
    if out is None:
        return a @ b
    return out.addmm_(a, b) if add else torch.mm(a, b, out=out)


def linear(x: Tensor, weight_ND: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, (..., N) of x (..., D) in the weight's precision; no gradients."""
    output = x.new_empty((*x.shape[:-1], len(weight_ND)))
    multiply(x.reshape(-1, x.shape[-1]), weight_ND.t(), output.view(-1, len(weight_ND)))
    # A tenth faster than the product with a bias.
    return output if bias_N is None else output.add_(bias_N)


def use_exact_tiles(use: bool = True) -> bool:
    """Let :func:`multiply` use the processor's matrix instructions; whether it has them."""
    global _in_use
    _in_use = use and instruction_set() == "amx"
    return _in_use


def _fits(a: Tensor, b: Tensor, out: Tensor | None) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and min(*a.shape, b.shape[1]) >= SMALLEST
        and runs_here(a)
        and all(1 in x.stride() and min(x.stride()) > 0 for x in (a, b))
        and (out is None or out.stride(1) == 1)
    )


@cache
def _product() -> Callable[..., int]:
    found = library()
    assert found is not None
    product = found.nmg_product
    size, pointer = ctypes.c_long, ctypes.c_void_p
    product.argtypes = [
        *(size, size, size, pointer, size, size),
        *(pointer, size, size, pointer, size, ctypes.c_int),
    ]
    return product
