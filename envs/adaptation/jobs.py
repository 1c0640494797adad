"""Score jobs: the pure unit of work of the project.

A job holds everything its score depends on, so the same job gives the same score on any worker,
can be cached by content and can be computed early, late or twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from envs.tasks.task import Feature
from envs.text.corpus import Context

BASE = "base"
"""Name of the language model's own weights, before any further pre-training."""


@dataclass(frozen=True)
class AdaptationSettings:
    """How a masked set of contexts becomes a score."""

    pretrain_epochs: int = 3
    """Passes over the masked contexts."""
    pretrain_batch: int = 8
    """Contexts of one step of further pre-training."""
    pretrain_lr: float = 2e-5
    """Highest learning rate of further pre-training; falls linearly to zero (generation: after a
    rise over the first tenth)."""
    corruption: Literal["bert", "mask"] = "bert"
    """``bert``: 80% [MASK], 10% random token, 10% unchanged; ``mask``: always [MASK]."""
    finetune_epochs: int = 1
    """Passes over the labelled examples."""
    finetune_batch: int = 8
    """Features of one step of fine-tuning."""
    finetune_lr: float = 3e-5
    """Highest learning rate of fine-tuning; as that of further pre-training."""
    finetune_seeds: int = 1
    """Fine-tuning runs averaged into one score."""
    weight_decay: float = 0.0
    """Of AdamW."""
    clip: float = 1.0
    """Gradients are scaled down to this norm."""
    eval_tokens: int = 2048
    """Tokens of one evaluation batch."""

    def __post_init__(self) -> None:
        for name in ("pretrain_batch", "finetune_batch", "finetune_seeds", "eval_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        # Nothing of any of these is a sensible control: no epochs, a learning rate of 0.
        names = ("pretrain_epochs", "pretrain_lr", "finetune_epochs", "finetune_lr", "weight_decay")
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite, 0 or more.")
        if not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0.")


@dataclass(frozen=True, eq=False)
class ScoreJob:
    """Further pre-train on masked contexts, fine-tune, score.

    Attributes:
        contexts: the contexts to further pre-train on.
        masks: one bool array (n,) per context; ``None`` leaves further pre-training out.
        train: features to fine-tune on.
        score: features to score on.
        settings: how.
        seed: seeds data order, corruption, head initialisation and dropout. Jobs that are to be
            compared share it (common random numbers).
        weights: content key of the language-model weights to start from.
        keep_weights: store the further pre-trained weights under ``job.key`` (continual mode).
    """

    contexts: Sequence[Context]
    masks: Sequence[np.ndarray] | None
    train: Sequence[Feature]
    score: Sequence[Feature]
    settings: AdaptationSettings
    seed: int
    weights: str = BASE
    keep_weights: bool = False

    @cached_property
    def key(self) -> str:
        """Content key: equal for jobs that must have equal scores."""
        digest = hashlib.sha256()
        digest.update(
            repr((self.weights, self.seed, sorted(asdict(self.settings).items()))).encode()
        )
        for number, context in enumerate(self.contexts):
            digest.update(np.int64(len(context)).tobytes())
            digest.update(context.input_ids.tobytes())
            if self.masks is not None:
                digest.update(np.packbits(self.masks[number]).tobytes())
        digest.update(b"none" if self.masks is None else b"masked")
        for features in (self.train, self.score):
            digest.update(b"|")
            for feature in features:
                digest.update(feature.digest)
        return digest.hexdigest()


@dataclass(frozen=True)
class Score:
    """What a job gives.

    Attributes:
        metrics: mean over the fine-tuning seeds of every metric of the task.
        per_seed: the same, one entry per fine-tuning seed.
        cost: ``pretrain_tokens``, ``finetune_tokens``, ``eval_tokens``, ``steps``: never seconds.
        pretrain_loss: mean masked-LM loss of each further pre-training epoch.
    """

    metrics: Mapping[str, float]
    per_seed: Sequence[Mapping[str, float]] = ()
    cost: Mapping[str, int] = field(default_factory=dict)
    pretrain_loss: Sequence[float] = ()


class Executor(Protocol):
    """Anything that turns jobs into scores, at once or later, here or elsewhere."""

    def submit(self, job: ScoreJob) -> Future[Score]: ...


Progress = Callable[[str, int, int], None]
"""Called as ``progress(phase, step, steps)`` from inside a job."""
