"""The Transformer block that policies and the adversary score tokens with.

Shapes: B contexts, L tokens, H heads, W width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, both residual; no dropout, so runs repeat.

    Args:
        width: W.
        heads: as many as that, or the next smaller number that divides the width.
        fused: attend by the library's kernel. Written out is several times as fast where gradients
            are taken on a CPU at the adversary's sizes.
    """

    def __init__(self, width: int, heads: int, *, fused: bool = True) -> None:
        super().__init__()
        self.heads = next(h for h in range(min(heads, width), 0, -1) if width % h == 0)
        self.fused = fused
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x_BLW: Tensor, real_BL: Tensor) -> Tensor:
        batch, length, width = x_BLW.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        query, key, value = self.mix(self.norm(x_BLW)).view(shape).permute(2, 0, 3, 1, 4)
        seen_B11L = real_BL[:, None, None, :]
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_B11L)
        else:
            scores_BHLL = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
            mixed = scores_BHLL.masked_fill(~seen_B11L, -1e9).softmax(dim=-1) @ value
        x_BLW = x_BLW + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x_BLW + self.feed(x_BLW)
