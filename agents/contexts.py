"""A batch of contexts as an agent sees them, whether from an environment or from replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, eq=False)
class Contexts:
    """B padded contexts.

    Attributes:
        input_ids: int32 (B, L).
        attention_mask: bool (B, L), real tokens.
        word_ids: int32 (B, L), -1 where there is no word.
        maskable: bool (B, L).
        context_ids: int64 (B,).
        budget: int64 (B,), the most tokens that may be masked.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    word_ids: np.ndarray
    maskable: np.ndarray
    context_ids: np.ndarray
    budget: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)

    @classmethod
    def of(cls, observation: Mapping[str, np.ndarray]) -> Contexts:
        """Read an observation, of one context (L,) or of several (B, L)."""
        rows = {key: np.atleast_2d(np.asarray(value)) for key, value in observation.items()}
        return cls(
            rows["input_ids"].astype(np.int32),
            rows["attention_mask"].astype(bool),
            rows["word_ids"].astype(np.int32),
            rows["maskable"].astype(bool),
            rows["context_id"].reshape(-1).astype(np.int64),
            rows["budget"].reshape(-1).astype(np.int64),
        )

    @classmethod
    def join(cls, parts: Sequence[Contexts]) -> Contexts:
        """The contexts of all parts, in order."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def rows(self, index: slice | np.ndarray) -> Contexts:
        """Some of the contexts."""
        return Contexts(*(getattr(self, field.name)[index] for field in fields(self)))

    def trimmed(self) -> Contexts:
        """Without the columns that are padding in every context (at least one column stays)."""
        used = np.flatnonzero(self.attention_mask.any(axis=0))
        end = int(used[-1]) + 1 if len(used) else 1
        return Contexts(
            self.input_ids[:, :end],
            self.attention_mask[:, :end],
            self.word_ids[:, :end],
            self.maskable[:, :end],
            self.context_ids,
            self.budget,
        )
