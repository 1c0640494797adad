"""What the arithmetic alone costs: operations that real tokens need, and the rate of products."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from envs.models.runtime import tune_runtime
from inner_loop_parts.workload import EVALUATION, FINETUNING, PRETRAINING, Workload

SHAPES = ((1160, 384, 1536), (1160, 768, 3072), (4096, 384, 1536), (4096, 768, 3072))
"""Tokens, in, out."""
TRAINING = 3
"""A backward pass is twice a forward pass."""


def needed(workload: Workload, model: Mapping[str, int]) -> dict[str, float]:
    """Floating-point operations by stage, of matrix products: real tokens, no padding.

    The vocabulary is projected to at masked positions only. Everything done by element, the
    optimiser and the memory traffic are left out, so this is a bound and not an estimate.
    """
    job, settings = workload.job, workload.job.settings
    assert job.masks is not None
    width, layers = model["width"], model["layers"]
    per_token = 2 * layers * (4 * width**2 + 2 * width * model["inner"])

    def encoder(items: Any) -> float:
        lengths = np.array([len(item) for item in items], dtype=float)
        return float(per_token * lengths.sum() + 4 * layers * width * (lengths**2).sum())

    masked = int(sum(mask.sum() for mask in job.masks))
    head = 2 * masked * (width**2 + width * model["vocabulary"])
    return {
        PRETRAINING: TRAINING * settings.pretrain_epochs * (encoder(job.contexts) + head),
        FINETUNING: TRAINING * settings.finetune_epochs * encoder(job.train),
        EVALUATION: encoder(job.score),
    }


class Rate:
    """The rate of matrix products here and now, by the fastest path of each precision."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.runtime = tune_runtime(threads=1)

    def __call__(self, precision: str) -> dict[str, float]:
        """GFLOP/s by wall and by processor time: the best of the shapes, each the median of 7."""
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        rates = [self._rate(shape, kind) for shape in SHAPES]
        return {"wall": max(rate[0] for rate in rates), "cpu": max(rate[1] for rate in rates)}

    def _rate(self, shape: tuple[int, int, int], kind: torch.dtype) -> tuple[float, float]:
        rows, inner, columns = shape
        a = torch.randn(rows, inner, device=self.device).to(kind)
        b = torch.randn(inner, columns, device=self.device).to(kind)
        seconds = []
        for _ in range(8):
            wall, cpu = self._now()
            for _ in range(3):
                a @ b
            after = self._now()
            seconds.append(((after[0] - wall) / 3, (after[1] - cpu) / 3))
        wall, cpu = np.median(np.array(seconds[1:]), axis=0)
        operations = 2 * rows * inner * columns / 1e9
        return float(operations / wall), float(operations / cpu)

    def _now(self) -> tuple[float, float]:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()
