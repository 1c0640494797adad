"""What a downstream task is, and what it makes of an example."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Feature:
    """One model input of a downstream task, without padding.

    Attributes:
        input_ids: int32, shape (n,).
        token_type_ids: int8, shape (n,).
        target: what to predict: ``(start, end)`` token indices for question answering,
            ``(label,)`` for classification.
        example: the example it was made from; long examples give several features.
        offsets: question answering only: character span of each token in the context, int32,
            shape (n, 2); ``(-1, -1)`` for tokens outside the context.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    target: tuple[int, ...]
    example: Any
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def digest(self) -> bytes:
        """Of everything that a score can depend on, the example with its answers too."""
        arrays = (self.input_ids, self.token_type_ids, self.offsets)
        return content_digest((self.target, self.example), arrays)


def short_digest(*values: Any) -> str:
    """Equal for equal values, by what they print; 8 hexadecimal digits."""
    return content_digest(values, ()).hex()[:8]


def content_digest(values: Any, arrays: Sequence[np.ndarray | None]) -> bytes:
    """Equal for equal values, by what they print, and equal arrays."""
    digest = hashlib.sha256(repr(values).encode())
    for array in arrays:
        digest.update(repr(None if array is None else array.shape).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.digest()


class Task(Protocol):
    """A downstream task: features, a head on the encoder, a loss and metrics.

    Hidden states come packed: ``hidden_TD`` holds the states of all tokens of all features, one
    after the other, and ``lengths`` says where each feature ends.
    """

    name: str
    headline: str
    """The metric that stands for the task, e.g. ``f1``."""
    higher_is_better: Mapping[str, bool]
    """Direction of every metric that ``evaluate`` returns (``nll`` is lower-is-better)."""
    reads_first: bool
    """Whether it gets the first state of every feature only."""
    pad_to: int | None
    """Tokens to which each input is padded, whose states it gets too; ``None`` for no padding."""

    @property
    def fingerprint(self) -> str:
        """Of the settings that change a score and that features do not show; short."""
        ...

    def features(self, examples: Sequence[Any], *, training: bool) -> list[Feature]: ...

    def head(self, width: int) -> nn.Module:
        """A fresh head, initialised from torch's global generator."""
        ...

    def loss(
        self,
        head: nn.Module,
        hidden_TD: Tensor,
        lengths: Sequence[int],
        features: Sequence[Feature],
    ) -> Tensor:
        """Mean loss over the features, a scalar."""
        ...

    def predict(
        self,
        head: nn.Module,
        hidden_TD: Tensor,
        lengths: Sequence[int],
        features: Sequence[Feature],
    ) -> list[np.ndarray]:
        """Raw outputs, one float32 array per feature: (n, 2) for spans, (classes,) for labels."""
        ...

    def evaluate(
        self, features: Sequence[Feature], outputs: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """Every metric of the task and ``nll``, all in natural units (F1, EM, accuracy: 0-100)."""
        ...
