"""The objective of ``amt``: fine-tuning on adversarially masked sources, from settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nmg.generation_config import GenerationConfig

if TYPE_CHECKING:
    import torch

    from agents.adversarial_translation import AdversarialTranslationSettings
    from envs.adaptation.generation_scorer import Objective
    from envs.models.language_model import LanguageModel
    from envs.models.seq2seq import Seq2SeqModel

States = Callable[[Sequence[Any]], "tuple[torch.Tensor, torch.Tensor]"]


def adversarial_objective(config: GenerationConfig) -> AdversarialObjective:
    """What the settings say of ``amt``."""
    from agents.adversarial_translation import AdversarialTranslationSettings
    from envs.models.loading import load_language_model

    comparison, data, fused = config.comparison, config.data, None
    if comparison.fused is not None:
        fused = load_language_model(comparison.fused, device=data.device, precision=data.precision)
    settings = AdversarialTranslationSettings(
        ratio=comparison.ratio, embedding=comparison.mask_embedding
    )
    return AdversarialObjective(settings, comparison.smoothing, fused)


class AdversarialObjective:
    """Makes the objective of ``amt``.

    Args:
        settings: of the masking.
        smoothing: of the targets.
        fused: masked language model whose states are fed to the translator, if any.

    Attributes:
        fingerprint: of the weights that it reads besides the translator's; empty without any.
    """

    def __init__(
        self,
        settings: AdversarialTranslationSettings,
        smoothing: float,
        fused: LanguageModel | None,
    ) -> None:
        self._settings, self._smoothing = settings, smoothing
        self._states = None if fused is None else _states(fused)
        self._width = 0 if fused is None else fused.width
        self.fingerprint = "" if fused is None else fused.fingerprint

    def __call__(self, model: Seq2SeqModel) -> Objective:
        from agents.adversarial_translation import AdversarialTranslation
        from envs.adaptation.generation_scorer import Translation
        from envs.text.corpus import special_marks

        return AdversarialTranslation(
            Translation(model, self._smoothing),
            model.model,
            special_marks(model.tokenizer).tolist(),
            self._settings,
            states=self._states,
            states_width=self._width,
        )


def _states(lm: LanguageModel) -> States:
    """States of a pre-trained encoder of the sources, computed once a source."""
    import torch

    lm.model.eval()
    known: dict[str, torch.Tensor] = {}

    def states(pairs: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [pair.example.source for pair in pairs]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            encoded = lm.tokenizer(new, truncation=True, max_length=lm.max_length, verbose=False)
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
