"""The real tokens of padded contexts, without the padding.

Contexts differ in length by an order of magnitude, so that most of a padded batch is padding. What
works token by token works on the real ones alone, one after another; attention on groups of
contexts of about the same length. A GPU keeps the padding, which costs it less than many launches.

Shapes: B contexts, L tokens, T real tokens of all contexts (B x L on a GPU), G contexts of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPARE = 8
"""Tokens, beside an eighth, that the longest context of a group may be longer than its shortest."""
WEIGHTS = 1 << 20
"""Attention weights of a group, all heads together: they stay in a cache. One long context may have
more."""


class RealTokens:
    """Takes real tokens out of padded contexts, and puts them back.

    On a CPU they are in the order of their contexts' lengths.

    Args:
        real_BL: bool.
    """

    def __init__(self, real_BL: Tensor) -> None:
        self._real_BL = real_BL
        self._places_T: Tensor | None = None
        if real_BL.device.type == "cpu":
            lengths_B, order_B = real_BL.sum(dim=1).sort(stable=True)
            row_T, column_T = real_BL[order_B].nonzero(as_tuple=True)
            self._places_T = order_B[row_T] * real_BL.shape[1] + column_T
            self._lengths = lengths_B[lengths_B > 0].tolist()

    def take(self, x_BLX: Tensor) -> Tensor:
        """Of the contexts, (T, X)."""
        flat_NX = x_BLX.flatten(0, 1)
        return flat_NX if self._places_T is None else flat_NX.index_select(0, self._places_T)

    def put(self, x_TX: Tensor) -> Tensor:
        """Back into contexts, (B, L, X), zeros at padding (on a GPU anything)."""
        if self._places_T is not None:
            blank_NX = x_TX.new_zeros((self._real_BL.numel(), x_TX.shape[1]))
            x_TX = blank_NX.index_copy(0, self._places_T, x_TX)
        return x_TX.view(*self._real_BL.shape, -1)

    def groups(self, x_TX: Tensor, heads: int) -> list[tuple[Tensor, Tensor]]:
        """Rows of contexts of about the same length, and what is real of them.

        Returns:
            Of each group (G, L', X), L' its longest context, anything at padding; and bool (G, L').
        """
        if self._places_T is None:
            return [(x_TX.view(*self._real_BL.shape, -1), self._real_BL)]
        groups = _alike(self._lengths, WEIGHTS // heads)
        parts = x_TX.split([sum(lengths) for lengths in groups])
        reals = [torch.arange(g[-1]) < torch.tensor(g)[:, None] for g in groups]
        return [(_padded(x, real_GL), real_GL) for x, real_GL in zip(parts, reals, strict=True)]

    def join(self, groups: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """What ``groups`` gave, as (T, X) again."""
        if self._places_T is None:
            return groups[0][0].flatten(0, 1)
        return torch.cat([_unpadded(x_GLX, real_GL) for x_GLX, real_GL in groups])


def _alike(lengths: Sequence[int], weights: int) -> list[list[int]]:
    """Ascending lengths in groups, so that little padding and few attention weights are in each."""
    found: list[list[int]] = []
    for length in lengths:
        last = found[-1] if found else []
        similar = last and length <= last[0] + last[0] // 8 + SPARE
        if not similar or (len(last) + 1) * length**2 > weights:
            found.append([])
        found[-1].append(length)
    return found


def _padded(x_TX: Tensor, real_GL: Tensor) -> Tensor:
    if not real_GL.all():
        place_N = (real_GL.flatten().cumsum(0) - 1).clamp(min=0)
        x_TX = x_TX.index_select(0, place_N)
    return x_TX.view(*real_GL.shape, -1)


def _unpadded(x_GLX: Tensor, real_GL: Tensor) -> Tensor:
    flat_NX = x_GLX.flatten(0, 1)
    return flat_NX if real_GL.all() else flat_NX.index_select(0, real_GL.flatten().nonzero()[:, 0])
