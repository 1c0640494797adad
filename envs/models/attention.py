"""Attention and dropout for packed batches: no padding, no position attends across sequences.

A packed batch is one row of T tokens, the sequences one after another. transformers lets a model
use any attention function that is registered by name; ours receives the lengths of the sequences
through the model's keyword arguments and attends within each of them. Architectures whose
attention does not go through that interface are found by a probe (``language_model.py``) and padded
instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKED = "nmg_packed"
SHORT = 48
"""Below this mean length sequences are attended to as one padded block: launching the kernels for
each of them would cost more than the padding."""


@dataclass
class PackedLayout:
    """Where the sequences of a packed batch lie; built once a batch, used by every layer.

    Attributes:
        lengths: tokens of each sequence.
    """

    lengths: Sequence[int]
    _block: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False)

    @property
    def equal(self) -> bool:
        return min(self.lengths) == max(self.lengths)

    @property
    def short(self) -> bool:
        return len(self.lengths) > 1 and sum(self.lengths) < SHORT * len(self.lengths)

    def bounds(self) -> list[tuple[int, int]]:
        ends = list(accumulate(self.lengths))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def block(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (N, Lmax) of the tokens as a padded block, its bias and its inverse (T,)."""
        if self._block is None:
            lengths = np.asarray(self.lengths)
            columns = np.arange(lengths.max())
            real = columns < lengths[:, None]
            starts = np.cumsum(lengths) - lengths
            index = np.where(real, starts[:, None] + columns, 0)
            bias = np.where(real, 0.0, -1e9).astype(np.float32)[:, None, None, :]
            inverse = np.flatnonzero(real)
            arrays = (torch.from_numpy(a).to(device) for a in (index, bias, inverse))
            self._block = tuple(arrays)  # type: ignore[assignment]
        assert self._block is not None
        return self._block


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: PackedLayout | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention function of transformers' interface for one packed row.

    Args:
        query, key, value: (1, H, T, D).
        layout: the sequences; without one the row is a single sequence.

    Returns:
        The output (1, T, H, D) and no attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rate = dropout if module.training else 0.0
    if layout is None:
        if len(query) > 1:
            raise ValueError("Packed attention takes one row of sequences and their layout.")
        layout = PackedLayout([query.shape[2]])
    if layout.equal:
        return _equal(query, key, value, scale, rate, layout), None
    if layout.short:
        return _short(query, key, value, scale, rate, layout), None
    outputs = [
        _attend([x[:, :, a:b] for x in (query, key, value)], scale, rate)
        for a, b in layout.bounds()
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _equal(
    query: Tensor, key: Tensor, value: Tensor, scale: float, rate: float, layout: PackedLayout
) -> Tensor:
    """Sequences of one length are a batch without any copying."""
    rows, length = len(layout.lengths), layout.lengths[0]
    heads, width = query.shape[1], query.shape[3]
    split = [
        x.transpose(1, 2).reshape(rows, length, heads, width).transpose(1, 2)
        for x in (query, key, value)
    ]
    return _attend(split, scale, rate).transpose(1, 2).reshape(1, rows * length, heads, width)


def _short(
    query: Tensor, key: Tensor, value: Tensor, scale: float, rate: float, layout: PackedLayout
) -> Tensor:
    """Many short sequences: one padded block for the attention alone."""
    index, bias, inverse = layout.block(query.device)
    rows, length = index.shape
    flat = index.reshape(-1)
    heads, width = query.shape[1], query.shape[3]
    split = [
        x[0].transpose(0, 1).index_select(0, flat).view(rows, length, heads, width).transpose(1, 2)
        for x in (query, key, value)
    ]
    out = _attend(split, scale, rate, bias.to(query.dtype))
    return out.transpose(1, 2).reshape(1, rows * length, heads, width).index_select(1, inverse)


def _attend(
    query_key_value: Sequence[Tensor], scale: float, rate: float, bias: Tensor | None = None
) -> Tensor:
    query, key, value = query_key_value
    if not torch.is_grad_enabled() or query.is_cuda:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=rate, scale=scale
        )
    # With gradients, on CPU and at these lengths, plain matrix products beat the fused kernel.
    weights = torch.matmul(query * scale, key.transpose(2, 3))
    if bias is not None:
        weights = weights + bias
    weights = torch.softmax(weights, dim=-1)
    if rate:
        weights = fast_dropout(weights, rate)
    return torch.matmul(weights, value)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        threshold = round(rate * 65536) - 32768
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(
            torch.iinfo(torch.int64).min, None
        )
        keep = (words.view(torch.int16)[: x.numel()] >= threshold).view(x.shape)
        ctx.save_for_backward(keep)
        ctx.scale = 1.0 / (1.0 - rate)
        return torch.mul(x, keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return torch.mul(grad, keep).mul_(ctx.scale), None


def fast_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout that spends 16 random bits an element, so ``rate`` is kept to within 1/131072.

    Several times cheaper than ``F.dropout`` on CPU, where the Bernoulli draw is 13-19% of a
    training step. Draws from torch's global generator.
    """
    if x.is_cuda:
        return F.dropout(x, rate)
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


def register_packed_attention() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, lambda *args, **kwargs: None)
