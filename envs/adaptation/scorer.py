"""The inner loop: further pre-train on masked contexts, fine-tune on the task, score.

One job is one call of :class:`Scorer`. The language model is loaded once; a job restores its
weights by one copy, trains them in place and leaves no trace: the same job gives the same score
whatever ran before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from envs.adaptation.jobs import BASE, AdaptationSettings, Progress, Score, ScoreJob
from envs.models.flat import FlatParameters, descend
from envs.models.language_model import LanguageModel
from envs.models.masked_batch import corrupted, labelled
from envs.models.seeding import forked, seed_torch
from envs.models.token_rows import TokenRows
from envs.tasks.task import Feature, Task

PRETRAIN, FINETUNE = 0, 1


class Scorer:
    """Turns score jobs into scores.

    Args:
        language_model: restored before every job to the weights the job names.
        task: what to fine-tune on.
        progress: called as ``progress(phase, step, steps)`` after every batch.

    Attributes:
        weights: snapshots by key; ``base`` is the model as it was given. A job that keeps its
            weights adds one; delete those that no later job starts from.
    """

    def __init__(
        self, language_model: LanguageModel, task: Task, progress: Progress | None = None
    ) -> None:
        self.language_model = language_model
        self.task = task
        self.progress = progress or (lambda phase, step, steps: None)
        self.weights: dict[str, Tensor] = {BASE: language_model.snapshot()}

    @cached_property
    def fingerprint(self) -> str:
        """Of what scores depend on beside their jobs: the model with its own weights, the
        precision, the kind of device, which draws other dropout, and the task's settings."""
        lm, task = self.language_model, self.task.fingerprint
        return f"{lm.fingerprint_of(self.weights[BASE])}-{lm.precision}-{lm.device.type}-{task}"

    def __call__(self, job: ScoreJob) -> Score:
        """Run a job. Deterministic on CPU; torch's global generator is left as it was."""
        if job.weights not in self.weights:
            raise KeyError(f"No language-model weights are stored under {job.weights!r}.")
        cost = {"pretrain_tokens": 0, "finetune_tokens": 0, "eval_tokens": 0, "steps": 0}
        lm = self.language_model
        with forked(lm.device):
            lm.restore(self.weights[job.weights])
            losses = self._pretrain(job, cost) if job.masks is not None else []
            if job.keep_weights:
                self.weights[job.key] = lm.snapshot()
            again = job.settings.finetune_seeds > 1
            adapted = lm.snapshot() if again else None
            per_seed = []
            for number in range(job.settings.finetune_seeds):
                if number and adapted is not None:
                    lm.restore(adapted)
                per_seed.append(self._finetune_and_evaluate(job, number, cost))
        metrics = {name: float(np.mean([s[name] for s in per_seed])) for name in per_seed[0]}
        return Score(metrics, per_seed, cost, losses)

    def _pretrain(self, job: ScoreJob, cost: dict[str, int]) -> list[float]:
        """Masked-LM training; the loss is the mean over the masked tokens of a batch."""
        assert job.masks is not None
        lm, settings = self.language_model, job.settings
        chosen = [i for i, mask in enumerate(job.masks) if mask.any()]
        if not chosen or not settings.pretrain_epochs:
            return []
        ids, labels = self._corrupt(job, chosen)
        rng = seed_everything(job.seed, PRETRAIN, 0, lm.device)

        def loss(rows: np.ndarray) -> Tensor:
            sequences = [ids[i] for i in rows]
            positions, targets = labelled(np.concatenate([labels[i] for i in rows]))
            cost["pretrain_tokens"] += sum(map(len, sequences))
            return lm.masked_losses(sequences, positions, targets).mean()

        batches = list(
            shuffled_batches(len(chosen), settings.pretrain_batch, settings.pretrain_epochs, rng)
        )
        values = self._train(
            "further pre-training", batches, loss, settings.pretrain_lr, settings, None, cost
        )
        return [float(part.mean()) for part in np.array_split(values, settings.pretrain_epochs)]

    def _corrupt(
        self, job: ScoreJob, chosen: Sequence[int]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        lm, rule = self.language_model, job.settings.corruption
        assert job.masks is not None
        all_ids, labels = [], []
        for i in chosen:
            # A generator per context: what one mask draws does not shift what the others draw.
            rng = np.random.default_rng([job.seed, PRETRAIN, i])
            ids, label = corrupted(lm, job.contexts[i].input_ids, job.masks[i], rule, rng)
            all_ids.append(ids)
            labels.append(label)
        return all_ids, labels

    def _finetune_and_evaluate(
        self, job: ScoreJob, number: int, cost: dict[str, int]
    ) -> dict[str, float]:
        lm, settings = self.language_model, job.settings
        rng = seed_everything(job.seed, FINETUNE, number, lm.device)
        head = self.task.head(lm.width).to(lm.device)

        def loss(rows: np.ndarray) -> Tensor:
            features = [job.train[i] for i in rows]
            hidden_TD, lengths, tokens = self._states(features)
            cost["finetune_tokens"] += tokens
            return self.task.loss(head, hidden_TD, lengths, features)

        if job.train and settings.finetune_epochs:
            batches = list(
                shuffled_batches(
                    len(job.train), settings.finetune_batch, settings.finetune_epochs, rng
                )
            )
            lr, sequences = settings.finetune_lr, [f.input_ids for f in job.train]
            with lm.trained(sequences, settings.weight_decay) as weights:
                self._train("fine-tuning", batches, loss, lr, settings, head, cost, weights)
        return self._evaluate(job, head, cost)

    def _evaluate(self, job: ScoreJob, head: nn.Module, cost: dict[str, int]) -> dict[str, float]:
        lm = self.language_model
        lm.model.eval()
        head.eval()
        outputs: list[np.ndarray] = [np.empty(0)] * len(job.score)
        batches = length_batches([len(f) for f in job.score], job.settings.eval_tokens)
        # Autocast is open throughout, so that it lowers the weights' precision once; in inference
        # mode it would each time.
        with torch.no_grad(), lm.autocast():
            for step, rows in enumerate(batches):
                features = [job.score[i] for i in rows]
                hidden_TD, lengths, tokens = self._states(features)
                cost["eval_tokens"] += tokens
                with torch.autocast(lm.device.type, enabled=False):
                    got = self.task.predict(head, hidden_TD, lengths, features)
                for i, output in zip(rows, got, strict=True):
                    outputs[i] = output
                self.progress("evaluation", step + 1, len(batches))
        return self.task.evaluate(job.score, outputs)

    def _states(self, features: Sequence[Feature]) -> tuple[Tensor, list[int], int]:
        """States of the features that the task reads, how many are each feature's, and of how many
        tokens they were computed."""
        ids, types = [f.input_ids for f in features], [f.token_type_ids for f in features]
        lengths = [len(f) for f in features]
        if self.task.reads_first:
            firsts = np.cumsum([0, *lengths[:-1]])
            hidden_TD = self.language_model.states_at(ids, firsts, types)
            return hidden_TD, [1] * len(features), sum(lengths)
        pad_to = self.task.pad_to
        hidden_TD = self.language_model.hidden_states(ids, types, pad_to=pad_to)
        return hidden_TD, [pad_to or length for length in lengths], len(hidden_TD)

    @staticmethod
    def schedule(done: float) -> float:
        """Factor of the learning rate when a share of the steps is done: linear decay to zero."""
        return 1 - done

    def _train(
        self,
        phase: str,
        batches: Sequence[np.ndarray],
        loss_of: Callable[[np.ndarray], Tensor],
        lr: float,
        settings: AdaptationSettings,
        head: nn.Module | None,
        cost: dict[str, int],
        weights: FlatParameters | TokenRows | None = None,
    ) -> np.ndarray:
        """AdamW with a clipped gradient, as BERT is fine-tuned; of all weights by default."""
        weights = weights or self.language_model.flat
        self.language_model.model.train()
        others = [] if head is None else list(head.train().parameters())
        optimizer = weights.adamw(lr, weight_decay=settings.weight_decay, others=others)
        values = np.zeros(len(batches))
        for step, rows in enumerate(batches):
            optimizer.param_groups[0]["lr"] = lr * self.schedule(step / len(batches))
            loss = loss_of(rows)
            descend(weights, optimizer, loss, settings.clip, head)
            values[step] = loss.detach()
            self.progress(phase, step + 1, len(batches))
        cost["steps"] += len(batches)
        return values


def seed_everything(
    seed: int, stage: int, number: int, device: str | torch.device
) -> np.random.Generator:
    """A generator for the order of the data; torch's global ones for initialisation and dropout."""
    order, torch_seed = np.random.SeedSequence([seed, stage, number]).spawn(2)
    seed_torch(int(torch_seed.generate_state(1)[0]), device)
    return np.random.default_rng(order)


def shuffled_batches(
    count: int, size: int, epochs: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Rows of each batch, every epoch in an order of its own."""
    for _ in range(epochs):
        order = rng.permutation(count)
        yield from (order[i : i + size] for i in range(0, count, size))


def length_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Batches of about ``tokens`` real tokens, of similar lengths to keep padding small."""
    batches: list[list[int]] = []
    total = 0
    for i in np.argsort(lengths, kind="stable"):
        if not batches or total + lengths[i] > tokens:
            batches.append([])
            total = 0
        batches[-1].append(int(i))
        total += lengths[i]
    return batches
