"""How unsure a language model is of the tokens of a text that it reads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from envs.models.language_model import LanguageModel

AT_ONCE = 128
"""Positions whose distributions over the whole vocabulary are worked on at a time."""


class PredictionEntropy:
    """Entropy of what a masked language model predicts at each token, nothing being masked.

    The scores of entropy-aware masking (arXiv 2605.28526), for ``ByFunction``. The model's weights
    as they are then count: give one that no job trains.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model = language_model

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """In nats, float64 of the shape of ``input_ids``; 0 at padding."""
        ids_BL = np.atleast_2d(observation["input_ids"])
        real_BL = np.atleast_2d(observation["attention_mask"]).astype(bool)
        entropy_BL = np.zeros(ids_BL.shape)
        training = self.language_model.model.training
        self.language_model.model.eval()
        for entropy_L, ids_L, real_L in zip(entropy_BL, ids_BL, real_BL, strict=True):
            entropy_L[real_L] = self._of(ids_L[real_L])
        self.language_model.model.train(training)
        return entropy_BL.reshape(np.shape(observation["input_ids"]))

    @torch.no_grad()
    def _of(self, ids_N: np.ndarray) -> np.ndarray:
        """One text at a time: neighbours in a batch would reach the last bits, and ties."""
        logits_NV = self.language_model.masked_logits([ids_N], np.arange(len(ids_N)))
        parts = logits_NV.split(AT_ONCE)
        entropies = [torch.distributions.Categorical(logits=part).entropy() for part in parts]
        return torch.cat(entropies).double().cpu().numpy()
