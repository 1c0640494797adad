"""What a masking policy may know of a token: the language model's embeddings and hidden states."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
import torch

from envs.models.language_model import LanguageModel
from envs.models.seq2seq import Seq2SeqModel

BATCH_TOKENS = 2048
"""Of a packed batch, about."""


class TokenStates:
    """Feature provider for masking policies: static embeddings beside last-layer states.

    Last-layer states of unmasked tokens alone say little about the token itself, so both are given.
    One encoder pass per context serves every consumer (player, opponent, critic, replay).

    Args:
        language_model: whose states, of an encoder-decoder the encoder's; its current weights are
            used.
        cache: bytes of last-layer states to remember, those that were used last; a context of 256
            tokens takes 0.4 MB with minilm.

    Attributes:
        width: F.
        embedding_width: how many of the F columns are static embeddings; they come first.
    """

    def __init__(
        self,
        language_model: LanguageModel | Seq2SeqModel,
        cache: int = 1 << 31,
    ) -> None:
        self.language_model = language_model
        self.embedding_width = language_model.embedding_width
        self.width = self.embedding_width + language_model.width
        self._cache_size, self._held = cache, 0
        self._cache: OrderedDict[tuple[int, bytes], np.ndarray] = OrderedDict()

    @property
    def vocabulary(self) -> str:
        """Hash of the tokens by their ids: what token ids mean to whoever reads these states."""
        tokens = sorted(self.language_model.tokenizer.get_vocab().items())
        return hashlib.sha256(repr(tokens).encode()).hexdigest()[:16]

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
        real_BL = np.asarray(attention_mask_BL).astype(bool)
        features_BLF = np.zeros((*real_BL.shape, self.width), dtype=np.float32)
        with torch.no_grad():
            rows_TE = self.language_model.embeddings(np.asarray(input_ids_BL)[real_BL])
        features_BLF[real_BL, : self.embedding_width] = rows_TE.cpu().numpy()
        last = self._last(np.asarray(input_ids_BL), real_BL.sum(axis=1), context_ids_B)
        for row, states_ND in enumerate(last):
            features_BLF[row, : len(states_ND), self.embedding_width :] = states_ND
        return features_BLF

    def _last(
        self, input_ids_BL: np.ndarray, lengths: np.ndarray, context_ids_B: np.ndarray
    ) -> list[np.ndarray]:
        """Last-layer states of each context, float32 (n, D), remembered or computed."""
        # Ids of generated contexts are hashes of 31 bits, so that two may share one.
        texts = [ids_L[:n].tobytes() for ids_L, n in zip(input_ids_BL, lengths, strict=True)]
        keys = list(zip(np.asarray(context_ids_B).reshape(-1).tolist(), texts, strict=True))
        found = {b: self._cache[key] for b, key in enumerate(keys) if key in self._cache}
        new = [b for b in range(len(keys)) if b not in found]
        fresh = self._compute([input_ids_BL[b][: lengths[b]] for b in new])
        found.update(zip(new, fresh, strict=True))
        for b, key in enumerate(keys):
            self._remember(key, found[b])
        return [found[b] for b in range(len(keys))]

    def _remember(self, key: tuple[int, bytes], states: np.ndarray) -> None:
        known = self._cache.pop(key, None)
        self._cache[key] = states
        self._held += states.nbytes - (0 if known is None else known.nbytes)
        while self._held > self._cache_size:
            self._held -= self._cache.popitem(last=False)[1].nbytes

    def forget(self) -> None:
        """Drop the cache: the language model's weights have changed."""
        self._cache.clear()
        self._held = 0

    def _compute(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        lm = self.language_model
        # Padding by neighbours would reach the last bits of a state, which must be the same
        # whenever, and beside whatever, it is computed.
        tokens = BATCH_TOKENS if lm.packs else 0
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
        states_TD = self.language_model.hidden_states(sequences).cpu().numpy()
        ends = np.cumsum([len(sequence) for sequence in sequences])[:-1]
        # Copies, so that each can be forgotten by itself.
        return [part.copy() for part in np.split(states_TD, ends)]
