"""Fine-tuning with adversarially masked sources (Lio, Li and Chien, ICASSP 2022).

Inside translation training a masking module chooses a share of the source's tokens; their
embeddings become zero, or a learned mask embedding, before the encoder sees them. Three terms are
minimised together:

    translation      label-smoothed cross-entropy of the target, from the masked source;
    source           cross-entropy of *all* source tokens but special ones, by a vocabulary head on
                     the encoder;
    adversary        - mean over masked tokens of standardised source loss * log p, plus its entropy
                     floor (see ``agents/adversarial.py``): the module masks what is hard to
                     recover.

Optionally the states of a pre-trained encoder of the source (BERT-fused translation, Zhu et al.
2020) are fed to encoder and decoder: added to the embeddings by attention, and laid beside the
encoder's states for the decoder to attend to. When translating, nothing is masked.

Shapes: B pairs, L source tokens, S tokens of the pre-trained encoder, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents import budgeted
from agents.adversarial_module import (
    AdversarySettings,
    RunningLoss,
    ScoringModule,
    adversarial_loss,
)

StateProvider = Callable[[Sequence[Any]], tuple[Tensor, Tensor]]
"""Pairs -> states (B, S, F) of a pre-trained encoder of their sources, and where they are real,
bool (B, S). No gradient flows into them."""


class Translation(Protocol):
    """What is fine-tuned without a masking module, e.g. ``generation_objective.Translation``."""

    def inputs(self, pairs: Sequence[Any]) -> Mapping[str, Any]:
        """``input_ids`` and ``attention_mask`` of the sources, (B, L)."""
        ...

    def target_loss(self, inputs: Mapping[str, Any], pairs: Sequence[Any]) -> Tensor:
        """Label-smoothed cross-entropy of the targets, given these inputs of the model."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """In which the model computes, at its precision."""
        ...


@dataclass(frozen=True)
class AdversarialTranslationSettings:
    """How sources are masked and the terms weighed."""

    ratio: float = 0.2
    """Share of the source's tokens that is masked in training."""
    embedding: Literal["zero", "learned"] = "zero"
    """What stands for a masked token."""
    source_weight: float = 1.0
    """Weight of source-token prediction."""
    adversary_weight: float = 1.0
    """Weight of the adversarial term."""
    adversary: AdversarySettings = field(default_factory=AdversarySettings)
    """The masking module; it learns with the model's learning rate here."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; it is a share of the tokens, in (0, 1).")


class AdversarialTranslation(nn.Module):
    """An objective of fine-tuning: ``loss`` for training, ``inputs`` for translating.

    Args:
        translation: makes the model's inputs and the loss of the target.
        model: the transformers encoder-decoder that it trains.
        special_ids: source tokens that are never masked.
        settings: see ``AdversarialTranslationSettings``.
        states: a pre-trained encoder's states, or ``None`` to do without.
        states_width: F.

    Attributes:
        last_terms: the three terms of the last batch, and ``entropy``, for logs.
        last_mask: source ids and mask of the last batch, (B, L) each.
    """

    special: Tensor

    def __init__(
        self,
        translation: Translation,
        model: Any,
        special_ids: Sequence[int],
        settings: AdversarialTranslationSettings | None = None,
        *,
        states: StateProvider | None = None,
        states_width: int = 0,
    ) -> None:
        super().__init__()
        self.settings = settings or AdversarialTranslationSettings()
        # Tuples keep what is trained elsewhere from becoming parts of this module.
        self._others = (translation, model)
        vocab_size, width = model.get_input_embeddings().weight.shape
        self.register_buffer("special", torch.tensor(sorted(set(special_ids))), persistent=False)
        self.module = ScoringModule(vocab_size, self.settings.adversary)
        self.losses = RunningLoss(self.settings.adversary.memory)
        self.source_head = nn.Linear(width, vocab_size)
        learned = self.settings.embedding == "learned"
        self.mask_embedding = nn.Parameter(0.02 * torch.randn(width)) if learned else None
        self.fusion = Fusion(states_width, width) if states is not None else None
        self._states = states
        self.last_terms: dict[str, float] = {}
        self.last_mask: tuple[Tensor, Tensor] | None = None

    def loss(self, pairs: Sequence[Any]) -> Tensor:
        """The sum of the three terms, each a mean over its tokens."""
        translation, _ = self._others
        sources, settings = translation.inputs(pairs), self.settings
        ids_BL, real_BL = sources["input_ids"], sources["attention_mask"].bool()
        maskable_BL = real_BL & ~torch.isin(ids_BL, self.special)
        scores_BL = self.module(ids_BL, real_BL)
        mask_BL = self._choose(scores_BL.detach(), maskable_BL)
        inputs, states_BLD = self._encode(sources, pairs, mask_BL)
        target = translation.target_loss(inputs, pairs)
        losses_BL = self._source_losses(states_BLD, ids_BL)
        source = losses_BL[maskable_BL].mean() if maskable_BL.any() else losses_BL.sum() * 0.0
        terms = {"translation": target, "source": settings.source_weight * source}
        entropy = 0.0
        if mask_BL.any():
            seen_BL = losses_BL.detach()
            self.losses.update(seen_BL[mask_BL])
            adversary, share = adversarial_loss(
                scores_BL,
                maskable_BL,
                mask_BL,
                self.losses.standardised(seen_BL),
                settings.adversary,
            )
            terms["adversary"], entropy = settings.adversary_weight * adversary, float(share)
        self.last_terms = {name: float(term.detach()) for name, term in terms.items()}
        self.last_terms["entropy"] = entropy
        self.last_mask = ids_BL, mask_BL
        return torch.stack(list(terms.values())).sum()

    def inputs(self, pairs: Sequence[Any]) -> Mapping[str, Any]:
        """What the decoder works from when translating: the whole source."""
        sources = self._others[0].inputs(pairs)
        return sources if self.fusion is None else self._encode(sources, pairs, None)[0]

    def _choose(self, scores_BL: Tensor, maskable_BL: Tensor) -> Tensor:
        """A draw by the module's scores, the same number a source whatever the scores."""
        count_B = maskable_BL.sum(dim=1)
        budget_B = (self.settings.ratio * count_B).round().long().clamp(min=1)
        noise_BL = -torch.empty_like(scores_BL).exponential_().log()  # standard Gumbel
        return budgeted.top_k(scores_BL + noise_BL, maskable_BL, budget_B)

    def _encode(
        self, sources: Mapping[str, Tensor], pairs: Sequence[Any], mask_BL: Tensor | None
    ) -> tuple[dict[str, Any], Tensor]:
        """The decoder's inputs, and the encoder's states of the source alone, (B, L, D)."""
        translation, model = self._others
        encoder = model.get_encoder()
        fused = None
        if self.fusion is not None and self._states is not None:
            states_BSF, real_BS = self._states(pairs)
            states_BSF = states_BSF.detach().to(sources["input_ids"].device)
            fused = self.fusion.project(states_BSF), real_BS
        change = self._change(mask_BL, fused)
        ids_BL = sources["input_ids"]
        changed = _changed_embeddings(encoder, _token_weight(model), ids_BL, change)
        with translation.autocast(), changed:
            output = encoder(**sources)
        states_BLD = output.last_hidden_state
        real = sources["attention_mask"]
        if fused is not None:
            output.last_hidden_state = torch.cat([states_BLD, fused[0]], dim=1)
            real = torch.cat([real, fused[1].to(real)], dim=1)
        return {"encoder_outputs": output, "attention_mask": real}, states_BLD

    def _change(
        self, mask_BL: Tensor | None, fused: tuple[Tensor, Tensor] | None
    ) -> Callable[[Tensor], Tensor]:
        def change(embedded_BLD: Tensor) -> Tensor:
            if mask_BL is not None:
                keep_BL1 = (~mask_BL)[..., None].to(embedded_BLD)
                embedded_BLD = embedded_BLD * keep_BL1
                if self.mask_embedding is not None:
                    embedded_BLD = embedded_BLD + (1 - keep_BL1) * self.mask_embedding
            if fused is not None and self.fusion is not None:
                embedded_BLD = embedded_BLD + self.fusion(embedded_BLD, *fused)
            return embedded_BLD

        return change

    def _source_losses(self, states_BLD: Tensor, ids_BL: Tensor) -> Tensor:
        with self._others[0].autocast():
            logits_NV = self.source_head(states_BLD).flatten(0, 1)
        losses_N = F.cross_entropy(logits_NV.float(), ids_BL.flatten(), reduction="none")
        return losses_N.view(ids_BL.shape)


class Fusion(nn.Module):
    """Brings a pre-trained encoder's states to the width of the model and lets tokens read them.

    Args:
        states_width: F.
        width: D.
    """

    def __init__(self, states_width: int, width: int) -> None:
        super().__init__()
        self.to_width = nn.Sequential(nn.Linear(states_width, width), nn.LayerNorm(width))
        self.query = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)  # at first the model is what it was
        nn.init.zeros_(self.out.bias)

    def project(self, states_BSF: Tensor) -> Tensor:
        """(B, S, F) -> (B, S, D)."""
        return self.to_width(states_BSF)

    def forward(self, embedded_BLD: Tensor, memory_BSD: Tensor, real_BS: Tensor) -> Tensor:
        """What each token reads out of the memory, (B, L, D)."""
        attend = real_BS.bool()[:, None, None, :].to(memory_BSD.device)
        memory_B1SD = memory_BSD[:, None]
        read_B1LD = F.scaled_dot_product_attention(
            self.query(embedded_BLD)[:, None], memory_B1SD, memory_B1SD, attn_mask=attend
        )
        return self.out(read_B1LD[:, 0])


def _token_weight(model: Any) -> nn.Parameter:
    """The matrix in which the encoder looks tokens up, (V, D)."""
    # Not the model's first: where it shares nothing, its matrix is not what the encoder reads.
    # FSMT's encoder does not tell, FSMT does.
    tell = getattr(model.get_encoder(), "get_input_embeddings", model.get_input_embeddings)
    return tell().weight


@contextmanager
def _changed_embeddings(
    encoder: nn.Module, weight: nn.Parameter, ids_BL: Tensor, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Change what the encoder's embedding of tokens gives for these ids.

    Wherever an architecture keeps it: it is the one that looks these very ids up in this weight.
    Positions may be made of the ids, too (FSMT), and padding be looked up in the weight (LED).
    """

    def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        ours = given and isinstance(given[0], Tensor) and torch.equal(given[0], ids_BL)
        return change(output) if ours else None

    handles = [
        module.register_forward_hook(hook)
        for module in encoder.modules()
        if isinstance(module, nn.Embedding) and module.weight is weight
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
