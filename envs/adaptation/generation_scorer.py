"""The inner loop of generation: pre-train an encoder-decoder on masked text, fine-tune, generate.

A job's masks are fragments (MASS) or scattered tokens (denoising); both are trained on as
``envs/adaptation/mass.py`` says. Otherwise it is the scorer of the other tasks: jobs are pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from envs.adaptation.generation_objective import (
    MakesObjective,
    Objective,
    Translation,
    target_losses,
)
from envs.adaptation.jobs import Progress, ScoreJob
from envs.adaptation.mass import MaskedSequence, masked_sequence
from envs.adaptation.scorer import FINETUNE, PRETRAIN, Scorer, length_batches, seed_everything
from envs.models.seq2seq import Seq2SeqModel
from envs.tasks.generation import Generation, PairFeature
from envs.tasks.task import short_digest
from envs.text.corpus import special_marks

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises: encoder-decoders from scratch need it."""
POOL = 16
"""Batches that are sorted by length together; more would make an epoch less random."""


@dataclass(frozen=True)
class GenerationSettings:
    """How a sequence-to-sequence model is fine-tuned and asked, besides ``AdaptationSettings``."""

    beams: int = 1
    """Beams of the search; 1 is greedy."""
    smoothing: float = 0.1
    """Label smoothing of fine-tuning; scores are always without."""

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"beams is {self.beams}; it must be at least 1.")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; it must be in [0, 1).")


class GenerationScorer(Scorer):
    """Turns score jobs of pairs into scores.

    Args:
        model: restored before every job to the weights the job names.
        task: makes texts of tokens and scores them.
        progress: called as ``progress(phase, step, steps)`` after every batch.
        settings: of fine-tuning and generation.
        objective: makes what fine-tuning minimises. Default: ``Translation``.
    """

    def __init__(
        self,
        model: Seq2SeqModel,
        task: Generation,
        progress: Progress | None = None,
        *,
        settings: GenerationSettings | None = None,
        objective: MakesObjective | None = None,
    ) -> None:
        super().__init__(cast(Any, model), cast(Any, task), progress)
        self.model = model
        self.generation = settings or GenerationSettings()
        self._last: _Pretrained | None = None
        self._make_objective = objective

    @cached_property
    def fingerprint(self) -> str:
        """As of every scorer, and of search, smoothing and objective."""
        objective = self._make_objective and self._make_objective.fingerprint
        return f"{super().fingerprint}-{short_digest(self.generation, objective)}"

    def _objective(self) -> Objective:
        if self._make_objective is not None:
            return self._make_objective(self.model)
        return Translation(self.model, self.generation.smoothing)

    @staticmethod
    def schedule(done: float) -> float:
        """Linear rise, then linear decay to zero."""
        return min((done + 1e-3) / WARM_UP, (1 - done) / (1 - WARM_UP))

    def _pretrain(self, job: ScoreJob, cost: dict[str, int]) -> list[float]:
        """Pre-train, or put back what the job before this one ended with, if that is the same.

        Jobs that differ only in their pairs come one after the other, and pre-training is most of
        their work.
        """
        key = _pretraining_key(job)
        if self._last is None or self._last.key != key:
            spent = dict.fromkeys(cost, 0)
            losses = self._pretrain_anew(job, spent)
            self._last = _Pretrained(key, self.model.snapshot(), losses, spent)
        self.model.restore(self._last.weights)
        for name, amount in self._last.cost.items():
            cost[name] += amount
        return list(self._last.losses)

    def _pretrain_anew(self, job: ScoreJob, cost: dict[str, int]) -> list[float]:
        """The loss is the mean over the masked tokens of a batch."""
        assert job.masks is not None
        settings = job.settings
        chosen = [i for i, mask in enumerate(job.masks) if mask.any()]
        if not chosen or not settings.pretrain_epochs:
            return []
        sequences = self._sequences(job, chosen)
        rng = seed_everything(job.seed, PRETRAIN, 0, self.model.device)

        def loss(rows: np.ndarray) -> Tensor:
            batch = [sequences[i] for i in rows]
            cost["pretrain_tokens"] += sum(
                len(each.encoder_ids) + len(each.decoder_ids) for each in batch
            )
            sources = self.model.sources([each.encoder_ids for each in batch])
            decoder_ids = [each.decoder_ids for each in batch]
            return self.model.token_losses(
                sources, decoder_ids, [each.labels for each in batch]
            ).mean()

        lengths = [len(each.encoder_ids) + len(each.decoder_ids) for each in sequences]
        batches = bucketed(lengths, settings.pretrain_batch, settings.pretrain_epochs, rng)
        values = self._train(
            "pre-training", batches, loss, settings.pretrain_lr, settings, None, cost
        )
        return [float(part.mean()) for part in np.array_split(values, settings.pretrain_epochs)]

    def _sequences(self, job: ScoreJob, chosen: Sequence[int]) -> list[MaskedSequence]:
        corrupted, labels = self._corrupt(job, chosen)
        marks = special_marks(self.model.tokenizer)
        shifted: dict[int, np.ndarray] = {}
        sequences = []
        for n, i in enumerate(chosen):
            context = job.contexts[i]
            if id(context) not in shifted:  # the visits of a context are one object
                shifted[id(context)] = self.model.shifted(context.input_ids)
            ids = shifted[id(context)]
            sequences.append(
                masked_sequence(
                    corrupted[n],
                    labels[n],
                    ids,
                    mask_token_id=self.model.mask_token_id,
                    special=np.isin(ids, marks),
                )
            )
        return sequences

    def _finetune_and_evaluate(
        self, job: ScoreJob, number: int, cost: dict[str, int]
    ) -> dict[str, float]:
        settings, train = job.settings, cast(Sequence[PairFeature], job.train)
        rng = seed_everything(job.seed, FINETUNE, number, self.model.device)
        objective = self._objective()
        own = objective.to(self.model.device) if isinstance(objective, nn.Module) else None

        def loss(rows: np.ndarray) -> Tensor:
            features = [train[i] for i in rows]
            cost["finetune_tokens"] += sum(map(_tokens, features))
            return objective.loss(features)

        if train and settings.finetune_epochs:
            lengths = list(map(_tokens, train))
            batches = bucketed(lengths, settings.finetune_batch, settings.finetune_epochs, rng)
            self._train("fine-tuning", batches, loss, settings.finetune_lr, settings, own, cost)
        if own is not None:
            own.eval()
        return self._generate_and_evaluate(job, objective, cost)

    def _generate_and_evaluate(
        self, job: ScoreJob, objective: Objective, cost: dict[str, int]
    ) -> dict[str, float]:
        model, score = self.model, cast(Sequence[PairFeature], job.score)
        task = cast(Generation, self.task)
        model.model.eval()
        outputs: list[np.ndarray] = [np.empty(0, np.int32)] * len(score)
        losses = list(outputs)
        room = max(1, job.settings.eval_tokens // self.generation.beams)
        batches = length_batches(list(map(_tokens, score)), room)
        with torch.inference_mode():
            for step, rows in enumerate(batches):
                features = [score[i] for i in rows]
                inputs = objective.inputs(features)
                sizes = [len(feature.target_ids) for feature in features]
                parts = target_losses(model, inputs, features).cpu().split(sizes)
                generated = model.generate(
                    inputs,
                    max_new_tokens=min(task.max_target_length, model.max_length - 1),
                    beams=self.generation.beams,
                )
                for i, part, ids in zip(rows, parts, generated, strict=True):
                    outputs[i], losses[i] = ids, part.numpy()
                cost["eval_tokens"] += sum(map(_tokens, features))
                self.progress("generation", step + 1, len(batches))
        return task.evaluate(score, outputs, losses)


@dataclass(frozen=True, eq=False)
class _Pretrained:
    """What pre-training came to.

    Attributes:
        key: of the pre-training part of the job.
        weights: after it.
        losses, cost: as it reported them.
    """

    key: str
    weights: Tensor
    losses: Sequence[float]
    cost: Mapping[str, int]


def _pretraining_key(job: ScoreJob) -> str:
    """Content key of a job but for its pairs and how they are used."""
    kept = {
        name: value
        for name, value in asdict(job.settings).items()
        if not name.startswith(("finetune", "eval"))
    }
    plain = replace(job, train=(), score=(), settings=type(job.settings)(**kept))
    return plain.key


def _tokens(feature: PairFeature) -> int:
    return len(feature.source_ids) + len(feature.target_ids)


def bucketed(
    lengths: Sequence[int], size: int, epochs: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Batches of row numbers, of similar lengths to keep padding small, in random order.

    Each epoch is shuffled, cut into pools, sorted within them and cut into batches.
    """
    of_row = np.asarray(lengths)
    batches = []
    for _ in range(epochs):
        order = rng.permutation(len(of_row))
        epoch = []
        for start in range(0, len(order), POOL * size):
            pool = order[start : start + POOL * size]
            pool = pool[np.argsort(of_row[pool], kind="stable")]
            epoch += [pool[i : i + size] for i in range(0, len(pool), size)]
        batches += [epoch[i] for i in rng.permutation(len(epoch))]
    return batches
