"""The Transformer block that policies and the adversary score tokens with.

Shapes: T real tokens of all contexts, G contexts of a group, L tokens, H heads, W width, K width
of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.real_tokens import RealTokens


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, both residual; no dropout, so runs repeat.

    Args:
        width: W.
        heads: as many as that, or the next smaller number that divides the width.
        feed_forward: without, residual self-attention alone, normalised after it, as BERT's.
    """

    def __init__(self, width: int, heads: int, feed_forward: bool = True) -> None:
        super().__init__()
        self.heads = next(h for h in range(min(heads, width), 0, -1) if width % h == 0)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = _feed_forward(width) if feed_forward else None

    def forward(self, x_TW: Tensor, tokens: RealTokens) -> Tensor:
        """New states, (T, W)."""
        if self.feed is None:
            return self.norm(x_TW + self._mixed(x_TW, tokens))
        x_TW = x_TW + self._mixed(self.norm(x_TW), tokens)
        return x_TW + self.feed(x_TW)

    def _mixed(self, x_TW: Tensor, tokens: RealTokens) -> Tensor:
        groups = tokens.groups(self.mix(x_TW), self.heads)
        return self.out(tokens.join([(self._attend(x_GLX, real), real) for x_GLX, real in groups]))

    def _attend(self, mixed_GLX: Tensor, real_GL: Tensor) -> Tensor:
        """Attention within each context, (G, L, W), of its queries, keys and values side by side.

        Written out it is several times as fast on a CPU as the library's kernel with gradients.
        """
        shape = (*real_GL.shape, 3, self.heads, -1)
        query, key, value = mixed_GLX.view(shape).permute(2, 0, 3, 1, 4)
        hidden_G11L = ~real_GL[:, None, None]
        if mixed_GLX.device.type != "cpu":
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=~hidden_G11L)
        else:
            scores_GHLL = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
            if hidden_G11L.any():
                scores_GHLL = scores_GHLL.masked_fill(hidden_G11L, -torch.inf)
            output = scores_GHLL.softmax(dim=-1) @ value
        return output.transpose(1, 2).flatten(2)


def _feed_forward(width: int) -> nn.Sequential:
    hidden = 2 * width
    layers = nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
    return nn.Sequential(*layers)
