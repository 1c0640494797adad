"""Strategies that learn while the language model trains, in a comparison of fixed masks.

A score job holds its masks: that is what makes it pure. A strategy that learns from the model's
losses (`feedback`) has none before the model has trained. So it is rehearsed: a copy of the model
is further pre-trained on the deal's contexts with the job's epochs, batches and learning rate
(which `further_pretrain` warms up), the strategy learns on the way, and the masks that it chose at
its last visit of each context are the job's. They stay the same in every epoch, as all other
maskings' do: with new masks at each visit two things would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envs.adaptation.jobs import AdaptationSettings
from envs.further_pretraining import PretrainingSettings, further_pretrain
from envs.models.language_model import LanguageModel
from envs.text.corpus import Context, Corpus

ADVERSARIAL = "adversarial"
"""Name of the strategy that learns against the model."""


class OnlineMasking:
    """A masking that is learned anew in every further pre-training.

    Args:
        lm: rehearsed on; it has its weights back afterwards.
        make: a fresh strategy with ``predict`` and ``feedback``, from a seed.
    """

    def __init__(self, lm: LanguageModel, make: Callable[[int], Any]) -> None:
        self._lm, self._make = lm, make
        self._start = lm.snapshot()

    def rehearse(
        self,
        contexts: Sequence[Context],
        settings: AdaptationSettings,
        *,
        budget: float,
        seed: int,
    ) -> list[np.ndarray]:
        """The masks of the last visit of each context, bool (n,) each."""
        masks = [np.zeros(len(context), bool) for context in contexts]

        def watch(
            observation: dict[str, np.ndarray], masks_BL: np.ndarray, losses_BL: np.ndarray
        ) -> None:
            for i, mask_L in zip(observation["context_id"].reshape(-1), masks_BL, strict=True):
                masks[i] = mask_L[: len(contexts[i])]

        if not settings.pretrain_epochs:
            return masks
        before = self._lm.snapshot()
        self._lm.restore(self._start)
        try:
            further_pretrain(
                self._lm,
                Corpus(list(contexts), self._lm.tokenizer),
                self._make(seed),
                PretrainingSettings(
                    epochs=settings.pretrain_epochs,
                    batch=settings.pretrain_batch,
                    lr=settings.pretrain_lr,
                    budget=budget,
                    corruption=settings.corruption,
                    clip=settings.clip,
                    seed=seed,
                ),
                watch=watch,
            )
        finally:
            self._lm.restore(before)
        return masks


def online_adversary(lm: LanguageModel) -> OnlineMasking:
    """The adversarial masking module, learning against this model."""
    from agents.adversarial import AdversarialMasking

    vocab_size = len(lm.tokenizer)
    return OnlineMasking(lm, lambda seed: AdversarialMasking(vocab_size, seed=seed))
