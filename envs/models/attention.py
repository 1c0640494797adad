"""Attention for packed batches: no padding, no position attends across sequences.

A packed batch is one row of T tokens, the sequences one after another. transformers lets a model
use any attention function that is registered by name; ours receives the lengths of the sequences
through the model's keyword arguments and attends within each of them. Architectures whose
attention does not go through that interface are found by a probe (``probes.py``) and padded
instead. On a GPU the library's kernels for jagged tensors do it (flash attention where there is
one), in a CPU's process of one thread C code (``native``). What follows is for all others.

With S = Q K^T s, P = softmax(S), dropout mask M, c = 1 / (1 - rate) and O = c (P * M) V, the
gradients are, with G that of O,

    dV = c (P * M)^T G,    dS = P * (M * (c G V^T) - rowsum(G * O)),    dQ = s dS K,
    dK = s dS^T Q,

(rowsum(G * O) as in FlashAttention, Dao et al. 2022, equation 4) written out because a sequence at
a time stays in the cache, because P and the places that M drops are all that has to be kept, and
because autograd's slices would each make a batch-sized tensor of zeros. The library's fused kernel
is slower than these matrix products on CPU at the lengths of contexts, with and without gradients.
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

from envs.models.dropout import draw_dropped, zero_places
from envs.models.native.attention import NativeAttention
from envs.models.native.library import runs_here
from envs.models.rounding import rounded

PACKED = "nmg_packed"
SHORT = 48
"""Below this mean length sequences are attended to as one padded block: launching the kernels for
each of them would cost more than the padding."""
WIDEST = 512
"""Widest window of a layer that looks at neighbours only; the probe tries it on a longer text."""
NEGLIGIBLE = -1e9
"""Score of a key that is not there."""


@dataclass
class PackedLayout:
    """Where the sequences of a packed batch lie; built once a batch, used by every layer.

    The row may be longer: what follows the last sequence is filling, which belongs to none and is
    attended to by none.

    Attributes:
        lengths: tokens of each sequence.
    """

    lengths: Sequence[int]
    _block: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    _offsets: Tensor | None = field(default=None, init=False)

    @property
    def tokens(self) -> int:
        """Of all sequences, without the filling."""
        return sum(self.lengths)

    @property
    def short(self) -> bool:
        return len(self.lengths) > 1 and self.tokens < SHORT * len(self.lengths)

    @property
    def counted(self) -> list[int]:
        """Of each sequence, the queries, and keys, among which dropout draws weights."""
        if self.short:
            return [rounded(max(self.lengths))] * len(self.lengths)
        return [rounded(length) for length in self.lengths]

    def cut(self, x_THD: Tensor, factor: float = 1.0) -> list[Tensor]:
        """Copies of the sequences times a factor, contiguous.

        Each (H, rounded(n), D), zeros at the end; short sequences as one padded block
        (N * H, rounded(Lmax), D).
        """
        _, heads, width = x_THD.shape
        if not self.short:
            pieces = []
            for view in self._views(x_THD):
                length = view.shape[1]
                piece = view.new_empty((heads, rounded(length), width))
                piece[:, :length] = view
                if length < piece.shape[1]:
                    piece[:, length:] = 0
                pieces.append(piece)
        else:
            rows, longest = len(self.lengths), rounded(max(self.lengths))
            block = x_THD.new_zeros((rows * longest, heads, width))
            block.index_copy_(0, self.block()[0], x_THD[: self.tokens])
            block = block.view(rows, longest, heads, width).transpose(1, 2)
            pieces = [block.reshape(rows * heads, longest, width)]
        return pieces if factor == 1 else [piece.mul_(factor) for piece in pieces]

    def _views(self, x_THD: Tensor) -> list[Tensor]:
        ends = list(accumulate(self.lengths))
        starts = [0, *ends]
        return [x_THD[a:b].transpose(0, 1) for a, b in zip(starts, ends, strict=False)]

    def paste(self, pieces: Sequence[Tensor], out_THD: Tensor) -> Tensor:
        """What ``cut`` gave, put together again; zeros at the filling."""
        out_THD[self.tokens :] = 0
        if not self.short:
            for place, piece in zip(self._views(out_THD), pieces, strict=True):
                place.copy_(piece[:, : place.shape[1]])
            return out_THD
        rows, longest = len(self.lengths), rounded(max(self.lengths))
        _, heads, width = out_THD.shape
        block = pieces[0].view(rows, heads, longest, width).transpose(1, 2)
        block = block.reshape(rows * longest, heads, width)
        torch.index_select(block, 0, self.block()[0], out=out_THD[: self.tokens])
        return out_THD

    def masked(self, scores: Tensor, number: int, window: int) -> Tensor:
        """Scores of a piece (G, n, n), made negligible in place where keys pad it or lie outside
        the window (0: there is none)."""
        if self.short:
            bias = self.block()[1]
            scores.view(len(bias), -1, *scores.shape[1:]).add_(bias)
        elif self.lengths[number] < scores.shape[2]:
            scores[:, :, self.lengths[number] :] = NEGLIGIBLE
        if window:
            places = torch.arange(scores.shape[2])
            scores.masked_fill_((places[:, None] - places).abs() >= window, NEGLIGIBLE)
        return scores

    def offsets(self, device: torch.device) -> Tensor:
        """Where the sequences begin and the last one ends, int64 (N + 1,), made once."""
        if self._offsets is None:
            self._offsets = torch.tensor([0, *accumulate(self.lengths)], device=device)
        return self._offsets

    def block(self) -> tuple[Tensor, Tensor]:
        """Where each token is in the padded block, (T,), and the block's bias (N, 1, 1, Lmax)."""
        if self._block is None:
            lengths = np.asarray(self.lengths)
            real = np.arange(rounded(lengths.max())) < lengths[:, None]
            bias = np.where(real, 0.0, NEGLIGIBLE).astype(np.float32)[:, None, None, :]
            self._block = torch.from_numpy(np.flatnonzero(real)), torch.from_numpy(bias)
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
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention function of transformers' interface for one packed row.

    Args:
        query, key, value: (1, H, T, D).
        layout: the sequences; without one the row is a single sequence.
        sliding_window: a query attends to keys fewer positions away than this, on both sides.

    Returns:
        The output (1, T, H, D) and no attention weights.

    Raises:
        ValueError: for several rows without layout, and for what is not done here.
    """
    window = sliding_window or 0
    if not query.shape == key.shape == value.shape:
        raise ValueError("Packed attention wants as many heads of keys and values as of queries.")
    if softcap is not None or window > WIDEST or (window and takes_jagged(query.device)):
        raise ValueError("Packed attention does not cap scores or look at so wide a window.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rate = dropout if module.training else 0.0
    if layout is None:
        if len(query) > 1:
            raise ValueError("Packed attention takes one row of sequences and their layout.")
        layout = PackedLayout([query.shape[2]])
    if takes_jagged(query.device):
        attend = _jagged_attention
    else:
        attend = (NativeAttention if scale > 0 and runs_here(query) else _Attention).apply
    query_THD, key_THD, value_THD = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    return attend(query_THD, key_THD, value_THD, scale, rate, layout, window)[None], None


def takes_jagged(device: torch.device) -> bool:
    """Whether packed batches are attended to by the library, without filling."""
    return device.type != "cpu"


def _jagged_attention(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    scale: float,
    rate: float,
    layout: PackedLayout,
    window: int,
) -> Tensor:
    assert not window
    offsets = layout.offsets(query_THD.device)
    shortest, longest = min(layout.lengths), max(layout.lengths)
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(
            x.contiguous(), offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for x in (query_THD, key_THD, value_THD)
    )
    output = F.scaled_dot_product_attention(query, key, value, dropout_p=rate, scale=scale)
    return output.transpose(1, 2).values()


class _Attention(torch.autograd.Function):
    """Products in the precision of the query, everything between them in float32."""

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
        ctx.layout, ctx.scale, ctx.kept = layout, scale, 1.0 / (1.0 - rate)
        low = query_THD.dtype
        factors = (scale, 1.0, 1.0)
        inputs = zip((query_THD, key_THD.to(low), value_THD.to(low)), factors, strict=True)
        pieces = list(zip(*(layout.cut(x, factor) for x, factor in inputs), strict=True))
        drops = _dropped([len(q) * q.shape[1] ** 2 for q, _, _ in pieces], rate)
        trains = any(ctx.needs_input_grad)
        outputs, saved = [], []
        with torch.autocast(query_THD.device.type, enabled=False):
            for number, ((q, k, v), places) in enumerate(zip(pieces, drops, strict=True)):
                scores = layout.masked(torch.bmm(q, k.transpose(1, 2)).float(), number, window)
                weights = torch.softmax(scores, dim=-1, out=scores).to(low)
                kept = zero_places(weights.clone(), places) if len(places) else weights
                outputs.append(torch.bmm(kept, v))
                if trains:
                    saved.append((q, k, v, weights, places, outputs[-1]))
        ctx.pieces = saved
        out_THD = torch.empty(query_THD.shape, dtype=low, device=query_THD.device)
        return layout.paste(outputs, out_THD).mul_(ctx.kept)

    @staticmethod
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Any, ...]:
        # Taken, so that a second pass fails: this one drops from the weights in place.
        pieces, ctx.pieces = ctx.pieces, None
        grads = []
        for g, piece in zip(ctx.layout.cut(grad_THD, ctx.kept), pieces, strict=True):
            q, k, v, weights, places, output = piece
            d_scores = zero_places(torch.bmm(g, v.transpose(1, 2)).float(), places)
            d_scores.sub_((g.float() * output).sum(dim=-1, keepdim=True)).mul_(weights)
            d_scores = d_scores.to(g.dtype)
            kept = zero_places(weights, places)
            d_key = torch.bmm(d_scores.transpose(1, 2), q)
            d_query = torch.bmm(d_scores, k).mul_(ctx.scale)
            grads.append((d_query, d_key, torch.bmm(kept.transpose(1, 2), g)))
        d_query_THD, d_key_THD, d_value_THD = (
            ctx.layout.paste(part, torch.empty_like(grad_THD)) for part in zip(*grads, strict=True)
        )
        return d_query_THD, d_key_THD, d_value_THD, None, None, None, None


def _dropped(sizes: Sequence[int], rate: float) -> list[Tensor]:
    """Places that are dropped in each of several pieces."""
    if not rate:
        return [torch.empty(0, dtype=torch.int64)] * len(sizes)
    places = draw_dropped(sum(sizes), rate).numpy()
    ends = np.cumsum(sizes)
    parts = np.split(places, np.searchsorted(places, ends[:-1]))
    starts = ends - sizes
    return [torch.from_numpy(part - start) for part, start in zip(parts, starts, strict=True)]


def register_packed_attention() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, lambda *args, **kwargs: None)
