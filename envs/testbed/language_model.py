"""The tiny language model of the testbed: trained on first use, then kept on disk.

It learns to predict masked words, and from [CLS] the keywords of the document, so that [CLS] tells
the topic. New keywords take turns: for an *era* some of them have a topic, then others have
another. So the model comes to know that these words have topics and can be taught one quickly, as
a large model knows it of a name it has not met.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import trange

from envs.folders import share
from envs.models.cache import cache_folder
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model
from envs.models.quiet import quiet
from envs.models.seeding import forked, seed_torch
from envs.testbed.domain import MASK, MAX_LENGTH, Vocabulary, wrapped

VERSION = 1
"""Raised whenever the same settings would give another model."""
SEED = 0
MASKED = 0.2
TRAINING_WORDS = 24
KEYWORD_SHARE = (5 / 24, 3 / 24)
"""Known and new keywords among the words of a topical training document."""


def cached_language_model(
    vocabulary: Vocabulary, cache_dir: str | Path | None = None
) -> LanguageModel:
    """The tiny model of a vocabulary, trained if it is not in the cache.

    Args:
        vocabulary: it speaks.
        cache_dir: where models are kept; ``NMG_CACHE`` or ``~/.cache/nmg`` if not given.
    """
    described = json.dumps([VERSION, SEED, asdict(vocabulary.settings)], sort_keys=True)
    key = hashlib.sha256(described.encode()).hexdigest()[:16]
    folder = Path(cache_dir or cache_folder()) / "testbed" / key
    if not (folder / "config.json").exists():
        print("Training the testbed's language model, once: about a minute ...", file=sys.stderr)
        _keep(train_language_model(vocabulary), vocabulary, folder)
    loaded = load_language_model(str(folder))
    loaded.name = "tiny"
    return loaded


def _keep(model: Any, vocabulary: Vocabulary, folder: Path) -> None:
    """Write the model aside and rename: whoever looks sees all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    made = aside / folder.name  # mkdtemp's own is private, and a cache may be shared
    try:
        made.mkdir()
        with quiet():
            model.save_pretrained(made)
        vocabulary.tokenizer().save_pretrained(made)
        share(made)
        os.replace(made, folder)
    except OSError:
        if not (folder / "config.json").exists():
            raise  # otherwise another process was first, with the same model
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def train_language_model(vocabulary: Vocabulary) -> Any:
    """Train a BertForMaskedLM; its weights are the same every time."""
    settings = vocabulary.settings
    with forked():
        seed_torch(SEED)
        model = _fresh_model(vocabulary)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.lr, total_steps=settings.steps, pct_start=0.1
        )
        teacher = _Teacher(vocabulary, np.random.default_rng(SEED))
        informative_V = torch.from_numpy(vocabulary.informative_V)
        model.train()
        for step in trange(settings.steps, desc="its language model", leave=False, disable=None):
            optimizer.zero_grad()
            _loss(model, teacher.batch(step), informative_V).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def _fresh_model(vocabulary: Vocabulary) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    settings = vocabulary.settings
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary.size,
            hidden_size=settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=4 * settings.width,
            max_position_embeddings=MAX_LENGTH,
            # Dropout would be noise in the score of a mask, and a fifth of its cost.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def _loss(model: Any, input_ids_BL: Tensor, informative_V: Tensor) -> Tensor:
    """Masked words, plus the document's keywords from [CLS]."""
    draw_BL = torch.rand(input_ids_BL.shape)
    masked_BL = (torch.rand(input_ids_BL.shape) < MASKED) & (input_ids_BL > MASK)
    corrupted_BL = torch.where(masked_BL & (draw_BL < 0.8), MASK, input_ids_BL)
    other_BL = torch.randint(MASK + 1, len(informative_V), input_ids_BL.shape)
    corrupted_BL = torch.where(masked_BL & (draw_BL > 0.9), other_BL, corrupted_BL)
    hidden_BLD = model.bert(input_ids=corrupted_BL).last_hidden_state
    words = F.cross_entropy(model.cls(hidden_BLD[masked_BL]), input_ids_BL[masked_BL])
    log_probability_BV = model.cls(hidden_BLD[:, 0]).log_softmax(-1)
    keyword_BL = informative_V[input_ids_BL]
    bag = (log_probability_BV.gather(1, input_ids_BL) * keyword_BL).sum()
    return words - bag / keyword_BL.sum().clamp(min=1)


class _Teacher:
    """Makes the training documents."""

    def __init__(self, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
        self.vocabulary = vocabulary
        self.rng = rng

    def batch(self, step: int) -> Tensor:
        """Token ids (B, L)."""
        settings = self.vocabulary.settings
        if step % settings.era == 0:
            drawn = self.rng.permutation(self.vocabulary.new)[: settings.era_words]
            self.new_TN = drawn.reshape(settings.topics, -1)
        return torch.from_numpy(self._documents(settings.batch))

    def _documents(self, count: int) -> np.ndarray:
        """Documents that mix a topic's keywords with other words, and plain ones."""
        words, settings, rng = self.vocabulary, self.vocabulary.settings, self.rng
        shape = (count, TRAINING_WORDS)
        topics_B1 = rng.integers(0, settings.topics, (count, 1))
        known_BL = words.known_TK[topics_B1, rng.integers(0, words.known_TK.shape[1], shape)]
        new_BL = self.new_TN[topics_B1, rng.integers(0, self.new_TN.shape[1], shape)]
        other_BL = self._other(count * TRAINING_WORDS).reshape(shape)
        topical_B1 = rng.random((count, 1)) >= settings.plain
        place_BL = np.where(topical_B1, rng.random(shape), 1.0)
        keyword_BL = np.where(place_BL < KEYWORD_SHARE[0], known_BL, new_BL)
        return wrapped(np.where(place_BL < sum(KEYWORD_SHARE), keyword_BL, other_BL))

    def _other(self, count: int) -> np.ndarray:
        words, rng = self.vocabulary, self.rng
        if words.settings.filler:
            return words.other(rng, count, words.filler)
        steady = rng.random(count) < KEYWORD_SHARE[0] / sum(KEYWORD_SHARE)
        return np.where(steady, rng.choice(words.steady, count), rng.choice(words.changing, count))
