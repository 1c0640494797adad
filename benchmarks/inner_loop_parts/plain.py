"""The original's way, in the library's stock parts.

Every context padded to 512 and every feature to 384 (256 for classification), labels over all
positions, eager attention, an optimiser that loops over the tensors, weights saved and reloaded
between the stages, evaluation in the precision of training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from inner_loop_parts.clock import Clock
from inner_loop_parts.workload import EVALUATION, FINETUNING, PRETRAINING, RELOAD, Workload


class Plain:
    """One side of the comparison; see the module."""

    scale = "steps"

    def __init__(self, workload: Workload, device: str) -> None:
        self.device = device
        self.folder = workload.folder
        self.tokenizer = AutoTokenizer.from_pretrained(workload.folder)

    def __call__(self, workload: Workload) -> Clock:
        """Run the job."""
        torch.manual_seed(workload.job.seed)
        batches, job = workload.batches(), workload.job
        model = self._load(AutoModelForMaskedLM, str(self.folder))
        corrupted = workload.corrupted(self.tokenizer)
        clock = Clock(self.device)

        def masked(rows: np.ndarray) -> dict[str, Tensor]:
            return self._contexts([corrupted[i] for i in rows], workload.padded[0])

        def labelled(rows: np.ndarray) -> dict[str, Tensor]:
            return self._features([job.train[i] for i in rows], workload, workload.padded[1])

        self._train(model, PRETRAINING, batches[PRETRAINING], masked, workload, clock)
        model = self._reload(model, workload)
        clock.note(RELOAD)
        self._train(model, FINETUNING, batches[FINETUNING], labelled, workload, clock)
        self._evaluate(model, batches[EVALUATION], workload, clock)
        return clock

    def first_loss(self, workload: Workload) -> float:
        """Masked-LM loss of the first batch, dropout off: all sides must agree on it."""
        model = self._load(AutoModelForMaskedLM, str(self.folder)).eval()
        corrupted = workload.corrupted(self.tokenizer)
        rows = workload.batches()[PRETRAINING][0]
        batch = self._contexts([corrupted[i] for i in rows], workload.padded[0])
        with torch.no_grad():
            return float(model(**batch).loss)

    def _load(self, library: Any, source: str, **options: Any) -> Any:
        model = library.from_pretrained(
            source, attn_implementation="eager", dtype=torch.float32, **options
        )
        return model.to(self.device)

    def _reload(self, model: Any, workload: Workload) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            AutoTokenizer.from_pretrained(folder)
            if workload.task == "qa":
                return self._load(AutoModelForQuestionAnswering, folder)
            return self._load(
                AutoModelForSequenceClassification, folder, num_labels=len(workload.labels)
            )

    def _train(
        self,
        model: Any,
        stage: str,
        batches: Sequence[np.ndarray],
        inputs: Callable[[np.ndarray], dict[str, Tensor]],
        workload: Workload,
        clock: Clock,
    ) -> None:
        settings = workload.job.settings
        lr = settings.pretrain_lr if stage == PRETRAINING else settings.finetune_lr
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, weight_decay=0.0, foreach=False, fused=False
        )
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - n / len(batches))
        model.train()
        for rows in batches:
            loss = model(**inputs(rows)).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip, foreach=False)
            optimizer.step()
            decay.step()
            model.zero_grad()
            clock.note(stage, workload.tokens(stage, rows))

    def _evaluate(
        self, model: Any, batches: Sequence[np.ndarray], workload: Workload, clock: Clock
    ) -> float:
        """Share of right starts and ends, or classes: the original's reward."""
        model.eval()
        right = []
        for rows in batches:
            features = [workload.job.score[i] for i in rows]
            batch = self._features(features, workload, workload.padded[1])
            with torch.no_grad():
                output = model(**batch)
            if workload.task == "qa":
                right += (output.start_logits.argmax(-1) == batch["start_positions"]).tolist()
                right += (output.end_logits.argmax(-1) == batch["end_positions"]).tolist()
            else:
                right += (output.logits.argmax(-1) == batch["labels"]).tolist()
            clock.note(EVALUATION, workload.tokens(EVALUATION, rows))
        return float(np.mean(right))

    def _contexts(
        self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], width: int
    ) -> dict[str, Tensor]:
        ids, labels = zip(*pairs, strict=True)
        return {
            "input_ids": self._padded(ids, width, self.tokenizer.pad_token_id),
            "attention_mask": self._padded([np.ones(len(row)) for row in ids], width, 0),
            "labels": self._padded(labels, width, -100),
        }

    def _features(
        self, features: Sequence[Any], workload: Workload, width: int
    ) -> dict[str, Tensor]:
        ids = [feature.input_ids for feature in features]
        targets = torch.tensor([feature.target for feature in features], device=self.device)
        batch = {
            "input_ids": self._padded(ids, width, self.tokenizer.pad_token_id),
            "attention_mask": self._padded([np.ones(len(row)) for row in ids], width, 0),
            "token_type_ids": self._padded([f.token_type_ids for f in features], width, 0),
        }
        if workload.task == "qa":
            return {**batch, "start_positions": targets[:, 0], "end_positions": targets[:, 1]}
        return {**batch, "labels": targets[:, 0]}

    def _padded(self, rows: Sequence[np.ndarray], width: int, fill: int) -> Tensor:
        block = np.full((len(rows), width), fill, dtype=np.int64)
        for place, row in zip(block, rows, strict=True):
            place[: len(row)] = row
        return torch.from_numpy(block).to(self.device)
