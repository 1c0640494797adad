"""This project's scorer, as the programs run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from envs.adaptation.scorer import Scorer
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model
from envs.models.runtime import Precision, tune_runtime
from inner_loop_parts.clock import Clock
from inner_loop_parts.workload import (
    EVALUATION,
    FINETUNING,
    PRETRAINING,
    RELOAD,
    Workload,
    make_task,
)


class Ours:
    """One side of the comparison.

    Args:
        workload: whose weights, tokenizer and task.
        precision: ``fp32`` or ``bf16``.
    """

    scale = "tokens"

    def __init__(self, workload: Workload, device: str, precision: Precision) -> None:
        tune_runtime(threads=1)
        self.device = device
        self.lm: LanguageModel = load_language_model(
            str(workload.folder), device=device, precision=precision
        )
        task = make_task(workload.task, self.lm.tokenizer, workload.labels)
        self.scorer = Scorer(self.lm, task)

    def __call__(self, workload: Workload) -> Clock:
        """Run the job. Restoring the weights and drawing the inputs is part of the first step."""
        tokens = self._tokens(workload)
        clock = Clock(self.device)

        def progress(phase: str, step: int, steps: int) -> None:
            clock.note(phase, tokens[phase][step - 1])

        self.scorer.progress = progress
        self.scorer(workload.job)
        clock.note(EVALUATION)  # the metrics
        clock.note(RELOAD)  # nothing to save or reload
        return clock

    def first_loss(self, workload: Workload) -> float:
        """Masked-LM loss of the first batch, dropout off."""
        self.lm.model.eval()
        rows = workload.batches()[PRETRAINING][0]
        corrupted = workload.corrupted(self.lm.tokenizer)
        label_T = np.concatenate([corrupted[i][1] for i in rows])
        places = np.flatnonzero(label_T != -100)
        with torch.inference_mode():
            logits_MV = self.lm.masked_logits([corrupted[i][0] for i in rows], places)
            target_M = torch.from_numpy(label_T[places].astype(np.int64)).to(self.lm.device)
            return float(F.cross_entropy(logits_MV, target_M))

    @staticmethod
    def _tokens(workload: Workload) -> dict[str, list[int]]:
        batches = {**workload.batches(), EVALUATION: workload.packed_evaluation()}
        return {
            stage: [workload.tokens(stage, rows) for rows in batches[stage]]
            for stage in (PRETRAINING, FINETUNING, EVALUATION)
        }


@dataclass(frozen=True)
class ScorerOf:
    """Makes the scorer of a worker process; picklable."""

    workload: Workload
    precision: Precision

    def __call__(self, progress: Callable[[str, int, int], None], number: int) -> Any:
        del progress, number
        return Ours(self.workload, "cpu", self.precision).scorer
