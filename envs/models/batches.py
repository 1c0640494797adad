"""Sequences of any lengths as one input of an encoder: without padding, or padded."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from envs.models.attention import PackedLayout, takes_jagged
from envs.models.quirks import padded_length
from envs.models.rounding import ROW_PARTS, rounded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class Batches:
    """Makes the inputs of one encoder.

    Args:
        encoder: whose signature says what it takes.
        config: of its model.
        device: where the inputs go.

    Attributes:
        accepts: names of the encoder's inputs.
        position_offset: position of a first token; RoBERTa's kin begin after the padding id.
    """

    def __init__(self, encoder: nn.Module, config: PreTrainedConfig, device: torch.device) -> None:
        self.accepts = set(inspect.signature(encoder.forward).parameters)
        self.position_offset = 0
        self._config = config
        self._device = device

    def packed(
        self, sequences: Sequence[np.ndarray], token_types: Sequence[np.ndarray] | None
    ) -> dict[str, Any]:
        """All sequences one after another, as one row, with the layout attention needs.

        Each (1, T'), T' the sum of the lengths and, on a CPU, some filling.
        """
        lengths = [len(ids) for ids in sequences]
        filling = rounded(sum(lengths), ROW_PARTS) - sum(lengths)
        if takes_jagged(self._device):
            filling = 0
        pad = np.full(filling, self._config.pad_token_id or 0, dtype=np.int64)
        zeros = np.zeros(filling, dtype=np.int64)
        positions = np.concatenate([*(np.arange(n, dtype=np.int64) for n in lengths), zeros])
        batch = {
            "input_ids": self.tensor(np.concatenate([*sequences, pad]))[None],
            "position_ids": self.tensor(positions + self.position_offset)[None],
            "layout": PackedLayout(lengths),
        }
        if self._takes_token_types:
            types = positions * 0
            if token_types is not None:
                types = np.concatenate([*token_types, zeros])
            batch["token_type_ids"] = self.tensor(types)[None]
        return batch

    def padded(
        self,
        sequences: Sequence[np.ndarray],
        token_types: Sequence[np.ndarray] | None,
        length: int = 0,
    ) -> dict[str, Tensor]:
        """Rows (B, L) with an attention mask, L at least ``length`` and what the model wants."""
        longest = max(length, *(len(ids) for ids in sequences))
        shape = (len(sequences), padded_length(self._config, longest))
        pad = self._config.pad_token_id or 0
        ids, types, real = (np.full(shape, fill, dtype=np.int64) for fill in (pad, 0, 0))
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            real[row, : len(sequence)] = 1
            if token_types is not None:
                types[row, : len(sequence)] = token_types[row]
        name = "input_ids" if "input_ids" in self.accepts else "inputs"
        batch = {name: self.tensor(ids), "attention_mask": self.tensor(real)}
        if self._takes_token_types:
            batch["token_type_ids"] = self.tensor(types)
        return batch

    @property
    def _takes_token_types(self) -> bool:
        kinds = getattr(self._config, "type_vocab_size", 0) or 0
        return "token_type_ids" in self.accepts and kinds > 1

    def tensor(self, array: np.ndarray) -> Tensor:
        """Integers, int64, where the encoder is."""
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self._device)
