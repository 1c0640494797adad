"""What language models of all kinds have in common: weights to restore, precision, a window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.models.flat import FlatParameters, digest
from envs.models.runtime import Precision, choose_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TrainableModel(ABC):
    """A language model with its tokenizer.

    Args:
        name: what the user called it.
        model: a transformers model.
        tokenizer: its fast tokenizer.
        device: where it lives.
        precision: ``bf16`` computes matrix products in bfloat16 (weights stay float32), ``fp32`` in
            float32, ``auto`` in bfloat16 on a GPU only.

    Attributes:
        flat: all its weights and gradients; subclasses lay them once the modules are as they stay.
        packs: batches carry no padding.
    """

    flat: FlatParameters
    packs = False

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.model: Any = model.to(device)  # type: ignore[arg-type]
        self.device = torch.device(device)
        self.precision = choose_precision(precision, device)

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Longest input, special tokens included."""

    def window(self, wanted: int) -> int:
        """Content tokens of a context, as many as wanted or as the model takes.

        Raises:
            ValueError: if it takes none beside its special tokens.
        """
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        if room < 1:
            raise ValueError(
                f"{self.name!r} takes inputs of {self.max_length} tokens, which leaves no room "
                "beside special tokens; give a model that takes longer ones."
            )
        if wanted < 1:
            raise ValueError(f"window is {wanted}; it must be at least 1.")
        return min(wanted, room)

    @property
    def fingerprint(self) -> str:
        """Content hash of the weights as they are now."""
        return digest(self.flat.weights)

    def snapshot(self) -> Tensor:
        """A copy of all weights, one flat float32 tensor."""
        return self.flat.weights.clone()

    def restore(self, weights: Tensor) -> None:
        """Put a snapshot back, by one copy into the standing buffer."""
        self.flat.weights.copy_(weights)

    def autocast(self) -> Any:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()
