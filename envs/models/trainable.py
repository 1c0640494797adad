"""What language models of all kinds have in common: weights to restore, precision, a window."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.models.flat import FlatParameters
from envs.models.runtime import Precision, choose_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ORIGIN = {"_name_or_path", "_from_model_config", "architectures", "dtype", "transformers_version"}
"""Settings that tell where a model comes from; no score depends on them."""


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
        mask_token_id: what stands for a masked token.
        packs: batches carry no padding.
    """

    flat: FlatParameters
    mask_token_id: int
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
        """Of the model with the weights as they are now, see :meth:`fingerprint_of`."""
        return self.fingerprint_of(self.flat.weights)

    def fingerprint_of(self, weights: Tensor) -> str:
        """Content hash of a snapshot and of what else a score depends on: configuration, search,
        special tokens. The same from wherever the model was loaded; 16 hexadecimal digits."""
        tokenizer = self.tokenizer
        configurations = self.model.config, getattr(self.model, "generation_config", None)
        described = [
            *(
                {name: value for name, value in each.to_diff_dict().items() if name not in ORIGIN}
                for each in configurations
                if each is not None
            ),
            *(self.max_length, len(tokenizer), sorted(tokenizer.all_special_ids)),
            *(self.mask_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id),
        ]
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        digest.update(weights.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

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
