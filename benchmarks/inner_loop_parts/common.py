"""What a careful practitioner writes today: dynamic padding, ``Trainer``, fused attention.

Inherits the plain side's inputs and its saving and reloading; batches are padded to their longest
sequence, and the library's ``Trainer`` trains and predicts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback, TrainingArguments

from inner_loop_parts.clock import Clock
from inner_loop_parts.plain import Plain
from inner_loop_parts.workload import EVALUATION, FINETUNING, PRETRAINING, RELOAD, Workload

Collate = Callable[[list[int]], dict[str, Tensor]]


class Common(Plain):
    """One side of the comparison; see the module."""

    scale = "tokens"

    def __call__(self, workload: Workload) -> Clock:
        """Run the job."""
        torch.manual_seed(workload.job.seed)
        job, batches = workload.job, workload.batches()
        model = self._load(AutoModelForMaskedLM, str(self.folder))
        corrupted = workload.corrupted(self.tokenizer)
        clock = Clock(self.device)

        def masked(rows: list[int]) -> dict[str, Tensor]:
            longest = max(len(job.contexts[i]) for i in rows)
            return self._contexts([corrupted[i] for i in rows], longest)

        def labelled(features: Sequence[Any]) -> Collate:
            def collate(rows: list[int]) -> dict[str, Tensor]:
                chosen = [features[i] for i in rows]
                return self._features(chosen, workload, max(map(len, chosen)))

            return collate

        self._fit(model, PRETRAINING, batches[PRETRAINING], masked, workload, clock)
        model = self._reload(model, workload)
        clock.note(RELOAD)
        self._fit(model, FINETUNING, batches[FINETUNING], labelled(job.train), workload, clock)
        self._predict(model, labelled(job.score), workload, clock)
        return clock

    def _load(self, library: Any, source: str, **options: Any) -> Any:
        model = library.from_pretrained(
            source, attn_implementation="sdpa", dtype=torch.float32, **options
        )
        return model.to(self.device)

    def _fit(
        self,
        model: Any,
        stage: str,
        batches: Sequence[np.ndarray],
        collate: Collate,
        workload: Workload,
        clock: Clock,
    ) -> None:
        settings = workload.job.settings
        lr = settings.pretrain_lr if stage == PRETRAINING else settings.finetune_lr
        tokens = [workload.tokens(stage, rows) for rows in batches]
        with tempfile.TemporaryDirectory() as folder:
            trainer = _InOrder(
                model=model,
                args=self._arguments(
                    folder,
                    learning_rate=lr,
                    weight_decay=0.0,
                    max_grad_norm=settings.clip,
                    max_steps=len(batches),
                ),
                train_dataset=[int(i) for rows in batches for i in rows],
                data_collator=collate,
                callbacks=[_Steps(clock, stage, tokens)],
            )
            trainer.order = batches
            trainer.train()

    def _predict(self, model: Any, collate: Collate, workload: Workload, clock: Clock) -> None:
        rows = list(range(len(workload.job.score)))
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(model=model, args=self._arguments(folder), data_collator=collate)
            trainer.predict(rows)
        clock.note(EVALUATION, workload.tokens(EVALUATION, rows))

    def _arguments(self, folder: str, **options: Any) -> TrainingArguments:
        return TrainingArguments(
            output_dir=folder,
            per_device_eval_batch_size=8,
            lr_scheduler_type="linear",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=not self.device.startswith("cuda"),
            **options,
        )


class _InOrder(Trainer):
    """A trainer whose batches are those of the job, in their order."""

    order: Sequence[np.ndarray]

    def get_train_dataloader(self) -> Any:
        batches = [[int(i) for i in rows] for rows in self.order]
        indices = range(1 + max(i for rows in batches for i in rows))
        return torch.utils.data.DataLoader(
            list(indices), batch_sampler=batches, collate_fn=self.data_collator
        )


class _Steps(TrainerCallback):
    def __init__(self, clock: Clock, stage: str, tokens: Sequence[int]) -> None:
        self.clock, self.stage, self.tokens = clock, stage, iter(tokens)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.note(self.stage, next(self.tokens))
