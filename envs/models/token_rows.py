"""Training that leaves most of a vocabulary alone.

A stage that reads tokens and predicts none gives a gradient to the rows of the tokens that occur.
All other rows keep moments of zero, and without weight decay AdamW leaves them as they are. They
are half of a small model's weights or more, and an optimiser costs what its memory traffic costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Self

import torch
from torch import Tensor, nn

from envs.models.flat import FlatParameters
from envs.models.standing import StandingEmbedding


class TokenRows:
    """All weights of a model, but of its token embedding only some rows.

    Takes the place of :class:`FlatParameters` in a training loop. While open as a context, the
    embeddings read a copy of the rows, which are put back at the end; nothing else may read the
    matrix meanwhile.

    Args:
        flat: all weights.
        embeddings: the modules that share the matrix, see :func:`readers`.
        ids: int64, every token that will be read.
    """

    def __init__(
        self, flat: FlatParameters, embeddings: Sequence[StandingEmbedding], ids: Tensor
    ) -> None:
        self._flat, self._embeddings = flat, embeddings
        weight_VD = embeddings[0].weight
        paddings = [e.padding_idx for e in embeddings if e.padding_idx is not None]
        self._ids = torch.cat([ids, ids.new_tensor(paddings)]).unique()
        self._places_V = torch.zeros(len(weight_VD), dtype=torch.int64)
        self._places_V[self._ids] = torch.arange(len(self._ids))
        first = weight_VD.storage_offset()
        last, end = first + len(self._ids) * weight_VD.shape[1], first + weight_VD.numel()
        self._unused = slice(last, end)
        self._rows_RD = nn.Parameter(weight_VD.detach()[self._ids])
        self._rows_RD.grad = flat.grad[first:last].view_as(self._rows_RD)
        around = [w for w in (slice(0, first), slice(end, len(flat.weights))) if w.start < w.stop]
        self._parts = [*((flat.part(w), w) for w in around), (self._rows_RD, slice(first, last))]
        self.parameters = [parameter for parameter, _ in self._parts]

    def __enter__(self) -> Self:
        for embedding in self._embeddings:
            embedding.rows = self._rows_RD, self._places_V
        return self

    def __exit__(self, *error: object) -> None:
        for embedding in self._embeddings:
            embedding.rows = None
        self._embeddings[0].weight.data[self._ids] = self._rows_RD.detach()

    def adamw(
        self, lr: float, *, weight_decay: float = 0.0, others: Iterable[nn.Parameter] = ()
    ) -> torch.optim.AdamW:
        """A fresh AdamW, its moments in the standing buffers.

        Raises:
            ValueError: for a weight decay, which would change the other rows, too.
        """
        if weight_decay:
            raise ValueError(f"weight_decay is {weight_decay}; train all weights with it.")
        return self._flat.adamw_of(self._parts, lr, weight_decay, others)

    def new_gradients(self) -> AbstractContextManager[None]:
        """Gradients that are zero but for what is added to them while this is open."""
        return self._flat.new_gradients(self._unused)


def readers(encoder: nn.Module, weight: Tensor) -> list[StandingEmbedding]:
    """The modules of an encoder that use a weight, if all of them only look rows up, else none."""
    users = [m for m in encoder.modules() if any(p is weight for p in m.parameters(recurse=False))]
    found = [module for module in users if isinstance(module, StandingEmbedding)]
    return found if len(found) == len(users) else []
