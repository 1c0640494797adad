"""A masked language model as the project uses it: fast, restorable, of any architecture.

Nothing here knows an architecture by name. What an architecture can do is tried when the model is
loaded (``probes.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from envs.models.attention import PACKED, register_packed_attention
from envs.models.batches import Batches
from envs.models.dropout import seed_by_generator, use_fast_dropout
from envs.models.flat import FlatParameters
from envs.models.head_alone import head_logits
from envs.models.last_layer import only_at
from envs.models.layer_parts import use_fast_parts
from envs.models.probes import probe_head, probe_join, probe_packing, probe_width
from envs.models.quiet import quiet
from envs.models.quirks import TOKEN_STATES, fixed_length, token_embedding
from envs.models.rounding import rounded
from envs.models.runtime import Precision
from envs.models.standing import use_standing_gradients
from envs.models.token_losses import token_losses
from envs.models.token_rows import TokenRows, readers
from envs.models.trainable import TrainableModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LanguageModel(TrainableModel):
    """A masked language model with its tokenizer.

    The arguments are those of :class:`TrainableModel`; the model has a masked-LM head.

    Attributes:
        width: D, size of the hidden states.
        vocab_size: V, rows of the embedding matrix.
        batches: makes the encoder's inputs.
        sparse_head: the vocabulary projection is computed at masked positions only.
        join: where the last layer is, too, if that can be (``last_layer.py``).
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
    ) -> None:
        register_packed_attention()
        super().__init__(name, model, tokenizer, device=device, precision=precision)
        self._embedding = token_embedding(model)
        self.vocab_size = len(self._embedding.weight)
        self.mask_token_id = _mask_token(tokenizer, name)
        use_fast_dropout(model)
        seed_by_generator(model)
        self._encoder = model.base_model
        self.batches = Batches(self._encoder, model.config, self.device)
        self._attention = model.config._attn_implementation
        self._states = TOKEN_STATES.get(model.config.model_type, "last_hidden_state")
        use_standing_gradients(model)
        if self.device.type == "cpu":
            use_fast_parts(model)
        self.flat = FlatParameters(self.model)
        self.join: torch.nn.Module | None = None
        self.width = probe_width(self)
        self.packs = probe_packing(self)
        self.sparse_head = probe_head(self)
        self.join = probe_join(self, self._encoder) if self.packs else None

    @property
    def max_length(self) -> int:
        """Longest input, special tokens included."""
        positions = getattr(self.model.config, "max_position_embeddings", 0) or 10**6
        # Where packing was not tried, or failed, only the table of positions tells.
        first = max(self.batches.position_offset, _first_position(self._encoder))
        counted = int(positions) - first
        one = fixed_length(self.model.config) or 10**6
        return min(counted, one, self.tokenizer.model_max_length)

    def trained(
        self, sequences: Sequence[np.ndarray], weight_decay: float = 0.0
    ) -> AbstractContextManager[FlatParameters | TokenRows]:
        """The weights that a stage changes that reads some sequences and predicts no words.

        Of the token embedding the rows that occur, where it is not frozen, the architecture only
        looks them up and nothing decays; else all weights. The head may not be asked while this is
        open.
        """
        weight = self._embedding.weight
        embeddings = readers(self._encoder, weight) if weight.requires_grad else []
        if not embeddings or weight_decay or self.device.type != "cpu":
            return nullcontext(self.flat)
        filling = np.array([self.model.config.pad_token_id or 0])
        ids = self.batches.tensor(np.concatenate([filling, *sequences]))
        return TokenRows(self.flat, embeddings, ids)

    @property
    def embedding_width(self) -> int:
        """E, size of the static token embeddings (ALBERT and ELECTRA factorise: E < D)."""
        return int(self._embedding.weight.shape[1])

    def embeddings(self, input_ids: np.ndarray) -> Tensor:
        """Static token embeddings, float32 (..., E)."""
        return self._embedding.weight[self.batches.tensor(input_ids)].float()

    def save(self, folder: Path) -> None:
        """Write model (safetensors) and tokenizer, to be loaded by folder name."""
        with self.unpacked(), quiet():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def hidden_states(
        self,
        sequences: Sequence[np.ndarray],
        token_types: Sequence[np.ndarray] | None = None,
        *,
        pad_to: int | None = None,
    ) -> Tensor:
        """Last-layer states of all tokens of all sequences, one after another.

        Args:
            sequences: token ids, each of shape (n,), without padding.
            token_types: token type ids of the same shapes; zeros if not given.
            pad_to: give the states of every sequence's padding to this length, too. Only losses
                that look at padding need it.

        Returns:
            hidden_TD, T the sum of the lengths (B x pad_to if that is given), float32.
        """
        if pad_to is not None:
            return self._states_with_padding(sequences, token_types, pad_to)
        batch = self.batches.packed(sequences, token_types) if self.packs else None
        with self.autocast():
            if batch is not None:
                hidden_TD = getattr(self._encoder(**batch), self._states)[
                    0, : batch["layout"].tokens
                ]
            else:
                padded = self.batches.padded(sequences, token_types)
                hidden_BLD = getattr(self._encoder(**padded), self._states)
                real = padded["attention_mask"].bool()
                hidden_TD = hidden_BLD[:, : real.shape[1]][real]
        return hidden_TD.float()

    def states_at(
        self,
        sequences: Sequence[np.ndarray],
        positions: np.ndarray,
        token_types: Sequence[np.ndarray] | None = None,
    ) -> Tensor:
        """Last-layer states at some positions of the sequences laid one after another.

        Args:
            sequences: token ids, each of shape (n,), without padding.
            positions: int64 (M,).
            token_types: as in :meth:`hidden_states`.

        Returns:
            hidden_MD, float32.
        """
        where_M = torch.from_numpy(positions).to(self.device)
        if self.join is None:
            return self.hidden_states(sequences, token_types).index_select(0, where_M)
        with self.autocast(), only_at(self.join, where_M):
            output = self._encoder(**self.batches.packed(sequences, token_types))
        return getattr(output, self._states).squeeze(0).float()

    def _states_with_padding(
        self,
        sequences: Sequence[np.ndarray],
        token_types: Sequence[np.ndarray] | None,
        pad_to: int,
    ) -> Tensor:
        padded = self.batches.padded(sequences, token_types, pad_to)
        with self.unpacked(), self.autocast():
            hidden_BLD = getattr(self._encoder(**padded), self._states)
        return hidden_BLD[:, :pad_to].flatten(0, 1).float()

    @contextmanager
    def unpacked(self) -> Iterator[None]:
        """The model's own attention, which knows padding, in the place of the packed one."""
        self.model.set_attn_implementation(self._attention)
        try:
            yield
        finally:
            if self.packs:
                self.model.set_attn_implementation(PACKED)

    def masked_logits(self, sequences: Sequence[np.ndarray], positions: np.ndarray) -> Tensor:
        """Vocabulary logits at some positions.

        Args:
            sequences: token ids, each (n,).
            positions: int64 (M,), positions in the sequences laid one after another.

        Returns:
            logits_MV, float32.
        """
        return self._masked_logits(sequences, positions).float()

    def _masked_logits(self, sequences: Sequence[np.ndarray], positions: np.ndarray) -> Tensor:
        if self.sparse_head:
            return self._head_logits(self.states_at(sequences, positions))
        padded = self.batches.padded(sequences, None)
        with self.autocast():
            logits_BLV = self.model(**padded).logits
        where_M = torch.from_numpy(positions).to(self.device)
        return logits_BLV[padded["attention_mask"].bool()].index_select(0, where_M)

    def masked_losses(
        self, sequences: Sequence[np.ndarray], positions: np.ndarray, targets: np.ndarray
    ) -> Tensor:
        """Cross-entropy at some positions, in nats, (M,) float32.

        Args:
            sequences: token ids, each (n,).
            positions: int64 (M,), positions in the sequences laid one after another.
            targets: the right token ids, (M,).
        """
        filling = rounded(len(positions)) - len(positions)
        logits_MV = self._masked_logits(sequences, np.pad(positions, (0, filling)))
        return token_losses(logits_MV, self.batches.tensor(targets))

    def head_logits(self, hidden_MD: Tensor) -> Tensor:
        """The masked-LM head alone, on given states; logits_MV, float32."""
        return self._head_logits(hidden_MD).float()

    def _head_logits(self, hidden_MD: Tensor) -> Tensor:
        with self.autocast():
            return head_logits(self.model, self._encoder, hidden_MD)


def _first_position(encoder: torch.nn.Module) -> int:
    """Position of a first token, as the table of positions has it: RoBERTa's kin keep the padding
    id's place, and those before it, for padding."""
    tables = [m for name, m in encoder.named_modules() if name.endswith("position_embeddings")]
    kept = [getattr(table, "padding_idx", None) for table in tables]
    return max((place + 1 for place in kept if place is not None), default=0)


def _mask_token(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"The tokenizer of {name!r} has no mask token, so its model cannot be trained to "
            "predict masked words. Give a masked language model such as bert, distilbert or minilm."
        )
    return int(tokenizer.mask_token_id)
