"""The objective of ``amt``: fine-tuning on adversarially masked sources, from settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nmg.generation_config import GenerationConfig

if TYPE_CHECKING:
    import torch

    from envs.adaptation.generation_objective import Objective
    from envs.models.language_model import LanguageModel
    from envs.models.seq2seq import Seq2SeqModel
    from envs.tasks.generation import PairFeature

States = Callable[[Any, Sequence[Any]], "tuple[torch.Tensor, torch.Tensor]"]


class AdversarialObjective:
    """Makes the objective of ``amt``, which may be fed the states of a masked language model.

    Args:
        config: what is masked, and which model is fused.

    Attributes:
        fingerprint: of these settings, and of the weights of what is fused in.
    """

    def __init__(self, config: GenerationConfig) -> None:
        from envs.models.loading import load_language_model
        from envs.tasks.task import short_digest

        self._settings, data = config.comparison, config.data
        self._states, self._width, weights = None, 0, ""
        if self._settings.fused is not None:
            fused = load_language_model(
                self._settings.fused, device=data.device, precision=data.precision
            )
            self._states, self._width = _states(fused, data.prefix), fused.width
            weights = fused.fingerprint
        given = self._settings
        self.fingerprint = short_digest(given.ratio, given.mask_embedding, given.smoothing, weights)

    def __call__(self, model: Seq2SeqModel) -> Objective:
        from agents.adversarial_translation import (
            AdversarialTranslation,
            AdversarialTranslationSettings,
        )
        from envs.adaptation.generation_objective import Translation
        from envs.text.corpus import special_marks

        given = self._settings
        return AdversarialTranslation(
            Translation(model, given.smoothing),
            model.model,
            special_marks(model.tokenizer).tolist(),
            AdversarialTranslationSettings(ratio=given.ratio, embedding=given.mask_embedding),
            states=self._states and partial(self._states, model.tokenizer),
            states_width=self._width,
        )


def _states(lm: LanguageModel, prefix: str = "") -> States:
    """States of a pre-trained encoder of the sources, computed once a source.

    Args:
        lm: the encoder.
        prefix: written before every source of the translator, not before its own.
    """
    import torch

    lm.model.eval()
    known: dict[str, torch.Tensor] = {}

    def states(tokenizer: Any, pairs: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [pair.example.source for pair in pairs]
        new = {pair.example.source: pair for pair in pairs if pair.example.source not in known}
        if new:
            read = [_read(tokenizer, pair, prefix) for pair in new.values()]
            encoded = lm.tokenizer(read, truncation=True, max_length=lm.max_length, verbose=False)
            sequences = [np.asarray(ids) for ids in encoded["input_ids"]]
            with torch.no_grad():
                packed_TF = lm.hidden_states(sequences)
            parts = packed_TF.split([len(ids) for ids in sequences])
            known.update((text, part.clone()) for text, part in zip(new, parts, strict=True))
        found = [known[text] for text in texts]
        lengths = torch.tensor([len(each) for each in found], device=lm.device)
        real_BS = torch.arange(int(lengths.max()), device=lm.device) < lengths[:, None]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), real_BS

    return states


def _read(tokenizer: Any, pair: PairFeature, prefix: str) -> str:
    """The part of a source that the translator's tokens reach to: longer ones were cut."""
    text = prefix + pair.example.source
    encoded = tokenizer(
        text,
        truncation=True,
        max_length=len(pair.source_ids),
        return_offsets_mapping=True,
        verbose=False,
    )
    return text[len(prefix) : max(end for _, end in encoded["offset_mapping"])]
