"""The objective of ``amt``: fine-tuning on adversarially masked sources, from settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nmg.generation_config import GenerationConfig

if TYPE_CHECKING:
    import torch

    from envs.adaptation.generation_scorer import Objective
    from envs.models.language_model import LanguageModel
    from envs.models.seq2seq import Seq2SeqModel

States = Callable[[Sequence[Any]], "tuple[torch.Tensor, torch.Tensor]"]


def fused_encoder(config: GenerationConfig) -> LanguageModel | None:
    """The masked language model whose states ``amt`` feeds to the translator, if any."""
    from envs.models.loading import load_language_model

    if config.comparison.fused is None:
        return None
    return load_language_model(
        config.comparison.fused, device=config.data.device, precision=config.data.precision
    )


def adversarial_objective(
    config: GenerationConfig, fused: LanguageModel | None
) -> Callable[[Seq2SeqModel], Objective]:
    """Makes the objective of ``amt``."""
    from agents.adversarial_translation import (
        AdversarialTranslation,
        AdversarialTranslationSettings,
    )
    from envs.adaptation.generation_scorer import Translation
    from envs.text.corpus import special_marks

    comparison = config.comparison
    settings = AdversarialTranslationSettings(
        ratio=comparison.ratio, embedding=comparison.mask_embedding
    )
    states, width = (None, 0) if fused is None else (_states(fused), fused.width)

    def objective(model: Seq2SeqModel) -> Objective:
        return AdversarialTranslation(
            Translation(model, comparison.smoothing),
            model.model,
            special_marks(model.tokenizer).tolist(),
            settings,
            states=states,
            states_width=width,
        )

    return objective


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
