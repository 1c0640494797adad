"""What a masking policy may know of a token: the language model's embeddings and hidden states."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from envs.models.language_model import LanguageModel
from envs.models.seq2seq import Seq2SeqModel

Layer = Literal["embedding", "last"]


class TokenStates:
    """Feature provider for masking policies: static embeddings beside last-layer states.

    Last-layer states of unmasked tokens alone say little about the token itself, so both are given.
    One encoder pass per context serves every consumer (player, opponent, critic, replay).

    Args:
        language_model: whose states, of an encoder-decoder the encoder's; its current weights are
            used.
        layers: which features, concatenated in this order.
        cache: contexts to remember.

    Attributes:
        width: F.
        embedding_width: how many of the F columns are static embeddings; they come first.
    """

    def __init__(
        self,
        language_model: LanguageModel | Seq2SeqModel,
        layers: Sequence[Layer] = ("embedding", "last"),
        cache: int = 20_000,
    ) -> None:
        self.language_model = language_model
        self.layers = tuple(layers)
        self.embedding_width = language_model.embedding_width * ("embedding" in layers)
        self.width = self.embedding_width + language_model.width * ("last" in layers)
        self._cache_size = cache
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()

    def __call__(
        self, input_ids_BL: np.ndarray, attention_mask_BL: np.ndarray, context_ids_B: np.ndarray
    ) -> np.ndarray:
        """Features of every token.

        Args:
            input_ids_BL: token ids, padded.
            attention_mask_BL: 1 for real tokens.
            context_ids_B: one id always means the same text; the key of the cache.

        Returns:
            float32 (B, L, F), zero at padding.
        """
        lengths = np.asarray(attention_mask_BL).astype(bool).sum(axis=1)
        keys = [int(key) for key in np.asarray(context_ids_B).reshape(-1)]
        new = [b for b, key in enumerate(keys) if key not in self._cache]
        fresh = self._compute([np.asarray(input_ids_BL[b][: lengths[b]]) for b in new])
        found = {b: self._cache[key] for b, key in enumerate(keys) if key in self._cache}
        found.update(zip(new, fresh, strict=True))
        features_BLF = np.zeros((*np.shape(input_ids_BL), self.width), dtype=np.float32)
        for b, states in found.items():
            features_BLF[b, : lengths[b]] = states
            self._cache[keys[b]] = states
            self._cache.move_to_end(keys[b])
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return features_BLF

    def forget(self) -> None:
        """Drop the cache: the language model's weights have changed."""
        self._cache.clear()

    def _compute(self, sequences: list[np.ndarray], tokens: int = 2048) -> list[np.ndarray]:
        lm = self.language_model
        training = lm.model.training
        lm.model.eval()
        done: list[np.ndarray] = []
        batch: list[np.ndarray] = []
        with torch.no_grad(), lm.autocast():
            for i, sequence in enumerate(sequences):
                batch.append(sequence)
                if i + 1 == len(sequences) or sum(map(len, batch)) >= tokens:
                    done += self._batch(batch)
                    batch = []
        lm.model.train(training)
        return done

    def _batch(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        parts = []
        for layer in self.layers:
            if layer == "embedding":
                parts.append(self.language_model.embeddings(np.concatenate(sequences)))
            else:
                parts.append(self.language_model.hidden_states(sequences))
        states_TF = torch.cat(parts, dim=1).cpu().numpy()
        ends = np.cumsum([len(s) for s in sequences])[:-1]
        return [np.ascontiguousarray(part) for part in np.split(states_TF, ends)]
