"""Train a masked-LM head, and then the whole model, on plain text.

Encoders that were published without a masked-LM head (sentence encoders such as minilm) start at
the loss of guessing; further pre-training from there would measure the head, not the masks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from envs.folders import whole_folder
from envs.models.flat import descend
from envs.models.language_model import LanguageModel
from envs.models.masked_batch import corrupted, labelled
from envs.models.seeding import forked, seed_torch
from envs.text.corpus import Context, Corpus

HELD_OUT = 0.05
"""Share of the contexts that a model's loss is measured on, before and after a training."""


@dataclass(frozen=True)
class PreparationSettings:
    """How the model is trained on plain text."""

    steps: int = 2000
    """Steps of the whole model, after the head's own."""
    head_steps: int = 100
    """First steps, which train the new head alone and leave the encoder as it is. None where
    the head has no weights of its own (BART)."""
    batch: int = 16
    """Contexts a step."""
    window: int = 128
    """Tokens of a context."""
    rate: float = 0.15
    """Share of tokens to predict, drawn anew at each visit."""
    lr: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for least, names in ((1, ("batch", "window")), (0, ("steps", "head_steps", "seed"))):
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}; it must be at least {least}."
                    )
        if not 0 < self.rate <= 1:
            raise ValueError(
                f"rate is {self.rate}; it is a share of the tokens, above 0 and at most 1."
            )
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}; it must be finite, 0 or more.")


@dataclass(frozen=True)
class MaskedLMQuality:
    """Masked-LM loss (nats a masked token) and accuracy (0-100) on held-out text."""

    loss: float
    accuracy: float


def train_masked_lm(
    lm: LanguageModel,
    corpus: Corpus,
    settings: PreparationSettings,
    progress: Callable[[str, int, int], None],
) -> None:
    """Train in place; the loss is the mean over the masked tokens of a batch."""
    rng = np.random.default_rng(settings.seed)
    everything = [p for p in lm.model.parameters() if p.requires_grad]
    head = head_weights(lm)
    lm.model.train()
    head_steps = settings.head_steps if head else 0
    total = head_steps + settings.steps
    optimizer = lm.flat.adamw(settings.lr)
    order = np.empty(0, dtype=np.int64)
    with forked(lm.device):
        seed_torch(settings.seed, lm.device)
        for step in range(total):
            alone = step < head_steps
            done = (step - head_steps) / max(1, settings.steps)
            optimizer.param_groups[0]["lr"] = settings.lr * (1.0 if alone else _warm_cosine(done))
            for parameter in everything:
                parameter.requires_grad_(not alone)
            for parameter in head:
                parameter.requires_grad_(True)
            if len(order) < settings.batch:
                order = np.concatenate([order, rng.permutation(len(corpus))])
            rows, order = order[: settings.batch], order[settings.batch :]
            loss = _batch_loss(lm, [corpus[int(i)] for i in rows], settings.rate, rng)[0]
            descend(lm.flat, optimizer, loss, 1.0)
            progress(f"masked-LM training, loss {loss.detach():.2f}", step + 1, total)
    for parameter in everything:
        parameter.requires_grad_(True)


def head_weights(lm: LanguageModel) -> list[nn.Parameter]:
    """Those that the head alone has, without the frozen ones."""
    encoder = {id(p) for p in lm.model.base_model.parameters()}
    return [p for p in lm.model.parameters() if p.requires_grad and id(p) not in encoder]


def _warm_cosine(done: float) -> float:
    warm = 0.06
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / 0.94))


def held_out_split(corpus: Corpus, seed: int) -> tuple[Corpus, list[Context]]:
    """What to train on, and what the loss is measured on.

    Raises:
        ValueError: if there are too few contexts for both.
    """
    order = np.random.default_rng(seed).permutation(len(corpus)).tolist()
    count = max(1, int(HELD_OUT * len(corpus)))
    if len(corpus) <= count:
        raise ValueError(
            f"The corpus has {len(corpus)} context(s); it needs at least two, one to train on and "
            "one to measure on."
        )
    held_out = [corpus[i] for i in order[:count]]
    return Corpus([corpus[i] for i in order[count:]], corpus.tokenizer, corpus.texts), held_out


def masked_lm_quality(
    lm: LanguageModel, contexts: Sequence[Context], rate: float = 0.15, seed: int = 1
) -> MaskedLMQuality:
    """Loss and accuracy at randomly masked tokens, dropout off."""
    rng = np.random.default_rng(seed)
    lm.model.eval()
    losses, right, count = 0.0, 0, 0
    with torch.no_grad():
        for start in range(0, len(contexts), 16):
            loss, hits, masked = _batch_loss(lm, contexts[start : start + 16], rate, rng)
            losses, right, count = losses + float(loss) * masked, right + hits, count + masked
    return MaskedLMQuality(losses / max(1, count), 100 * right / max(1, count))


def _batch_loss(
    lm: LanguageModel, contexts: Sequence[Context], rate: float, rng: np.random.Generator
) -> tuple[torch.Tensor, int, int]:
    sequences, labels = [], []
    for context in contexts:
        maskable = np.flatnonzero(context.maskable)
        mask = np.zeros(len(context), dtype=bool)
        count = min(len(maskable), max(1, int(rate * len(maskable))))
        mask[rng.choice(maskable, size=count, replace=False)] = True
        ids, label = corrupted(lm, context.input_ids, mask, "bert", rng)
        sequences.append(ids)
        labels.append(label)
    positions, targets = labelled(np.concatenate(labels))
    logits_MV = lm.masked_logits(sequences, positions)
    target_M = lm.batches.tensor(targets)
    hits = int((logits_MV.argmax(dim=1) == target_M).sum())
    return nn.functional.cross_entropy(logits_MV, target_M), hits, len(positions)


def save_language_model(lm: LanguageModel, folder: Path, quality: MaskedLMQuality) -> None:
    """Write model, tokenizer and ``quality.json``; the folder appears whole or not at all."""
    with whole_folder(folder) as part:
        lm.save(part)
        (part / "quality.json").write_text(json.dumps(asdict(quality), indent=2) + "\n")
