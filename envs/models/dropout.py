"""Dropout for CPUs: the same distribution, several times cheaper than the library's.

``F.dropout`` draws a Bernoulli number per element, which is 13-19% of a training step. Of
independent elements dropped at a low rate the gaps between one and the next are geometric: drawing
the gaps takes a number per dropped element, and zeroing them touches nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as library_dropout

from envs.models.native.library import library

RESOLUTION = 1 << 16
"""Equally probable values of a gap; more probable ones are there several times."""


def draw_dropped(count: int, rate: float) -> Tensor:
    """Draw which of ``count`` elements are dropped, each at ``rate``, independently.

    Seeded from torch's global generator, so that ``torch.manual_seed`` decides them. The same
    places with C code and without.

    Returns:
        int64 (K,), their places, ascending. ``rate`` is kept to within 1/1000 of itself.
    """
    if not rate:
        return torch.empty(0, dtype=torch.int64)
    seed, gaps = int(torch.empty((), dtype=torch.int64).random_()), _gaps(rate)
    code = library()
    if code is not None and gaps.itemsize <= 2:
        room = int(count * rate + 10 * (count * rate) ** 0.5) + 64
        places = torch.empty(room, dtype=torch.int64)
        drawn = _drawer(code)(
            seed, count, gaps.ctypes.data, gaps.itemsize > 1, room, places.data_ptr()
        )
        if drawn >= 0:
            return places[:drawn]
    return torch.from_numpy(_draw(seed, count, rate, gaps))


def _draw(seed: int, count: int, rate: float, gaps: np.ndarray) -> np.ndarray:
    parts, last, first, expected = [], -1, 1, count * rate
    while last < count:
        words = _splitmix64(seed, first, int(expected + 6 * expected**0.5) // 4 + 2)
        first += len(words)
        part = np.empty(4 * len(words) + 1, dtype=np.int64)
        part[0], part[1:] = last, np.take(gaps, words.view(np.uint16))
        parts.append(np.cumsum(part, out=part)[1:])
        last = int(part[-1])
    places = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return places[: np.searchsorted(places, count)]


def _splitmix64(seed: int, first: int, number: int) -> np.ndarray:
    """Numbers ``first``, ``first + 1``, ... of the generator (Steele et al. 2014), uint64."""
    words = np.arange(first, first + number, dtype=np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    words += np.uint64(seed)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache
def _drawer(code: ctypes.CDLL) -> Callable[..., int]:
    draw = code.nmg_draw_dropped
    unsigned, signed, pointer = ctypes.c_uint64, ctypes.c_int64, ctypes.c_void_p
    draw.argtypes = (unsigned, signed, pointer, ctypes.c_int, signed, pointer)
    draw.restype = signed
    return draw


@lru_cache
def _gaps(rate: float) -> np.ndarray:
    """Quantiles of the geometric distribution, (RESOLUTION,), in bytes where they fit.

    Looked up at random, between operations that fill the cache: a small table stays in it.
    """
    survival = 1 - (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    gaps = 1 + np.floor(np.log(survival) / np.log1p(-rate)).astype(np.int64)
    return gaps.astype(np.min_scalar_type(gaps.max()))


def zero_places(x: Tensor, places: Tensor) -> Tensor:
    """Zero some elements of a contiguous tensor in place; ``places`` count through all of it."""
    x.view(-1).index_fill_(0, places, 0)
    return x


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        places = draw_dropped(x.numel(), rate)
        ctx.save_for_backward(places)
        ctx.scale = 1.0 / (1.0 - rate)
        return zero_places(x.contiguous() * ctx.scale, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return zero_places(grad.contiguous() * ctx.scale, places), None


def fast_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout as ``F.dropout`` does it in training. Draws from torch's global generator."""
    if x.device.type != "cpu" or rate >= 1:
        # Bound at import: while a sequence-to-sequence model runs, ``F.dropout`` is this function.
        return library_dropout(x, rate)
    return _Dropout.apply(x, rate)


class FastDropout(nn.Dropout):
    """``nn.Dropout`` by :func:`fast_dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return fast_dropout(x, self.p)


def use_fast_dropout(model: nn.Module) -> None:
    """Give every plain dropout layer of the model the cheap draw."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout


def seed_by_generator(model: nn.Module) -> None:
    """Let ``torch.manual_seed`` decide the seeds that layers draw for themselves.

    Reformer's layers are computed again in the backward pass and so seed each dropout; they take
    these seeds from the clock.
    """
    for module in model.modules():
        for name in ("attention_seed", "feed_forward_seed"):
            if hasattr(module, name):
                setattr(module, f"_init_{name}", partial(_draw_seed, module, name))


def _draw_seed(module: nn.Module, name: str) -> None:
    seed = int(torch.randint(1 << 31, ()))
    setattr(module, name, seed)
    torch.manual_seed(seed)
