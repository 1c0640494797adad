"""What the arithmetic alone costs: operations that real tokens need, and the rate of products."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from envs.models.native.products import multiply
from envs.models.runtime import tune_runtime
from inner_loop_parts.workload import EVALUATION, FINETUNING, PRETRAINING, Workload

SHAPES = ((1160, 384, 1536), (1160, 768, 3072), (4096, 384, 1536), (4096, 768, 3072))
"""Tokens, in, out."""
TRAINING = 3
"""A backward pass is twice a forward pass."""


def needed(workload: Workload, model: Mapping[str, int]) -> dict[str, float]:
    """Floating-point operations by stage, of matrix products: real tokens, no padding.

    What nothing reads is not needed: the vocabulary is projected to at masked positions, and the
    last layer has keys and values of all tokens, but else computes only what the head looks at.
    Everything done by element, the optimiser and the memory traffic are left out, so this is a
    bound and not an estimate.
    """
    job, settings = workload.job, workload.job.settings
    assert job.masks is not None
    width, layers, inner = model["width"], model["layers"], model["inner"]

    def layer(lengths: np.ndarray, read: np.ndarray) -> float:
        products = 2 * width**2 * lengths + (2 * width**2 + 2 * width * inner) * read
        return float(2 * (products + 2 * width * lengths * read).sum())

    def encoder(items: Any, read: np.ndarray | None = None) -> float:
        lengths = np.array([len(item) for item in items], dtype=float)
        last = layer(lengths, lengths if read is None else read)
        return (layers - 1) * layer(lengths, lengths) + last

    def first(items: Any) -> np.ndarray | None:
        return np.ones(len(items)) if workload.task == "classification" else None

    masked = np.array([mask.sum() for mask in job.masks], dtype=float)
    head = float(2 * (width**2 + width * model["vocabulary"]) * masked.sum())
    pretraining = encoder(job.contexts, masked) + head
    return {
        PRETRAINING: TRAINING * settings.pretrain_epochs * pretraining,
        FINETUNING: TRAINING * settings.finetune_epochs * encoder(job.train, first(job.train)),
        EVALUATION: encoder(job.score, first(job.score)),
    }


class Rate:
    """The rate of matrix products here and now, by the fastest path of each precision."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.runtime = tune_runtime(threads=1)

    def __call__(self, precision: str) -> dict[str, float]:
        """GFLOP/s by wall and by processor time: the best of the shapes, each the median of 7.

        Also, by processor time, of torch's products, which may be slower than ours.
        """
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        rates = [self._rate(shape, kind, multiply) for shape in SHAPES]
        found = {"wall": max(rate[0] for rate in rates), "cpu": max(rate[1] for rate in rates)}
        torchs = max(self._rate(shape, kind, torch.mm)[1] for shape in SHAPES)
        return found | {"torch": torchs}

    def _rate(
        self, shape: tuple[int, int, int], kind: torch.dtype, product: Callable[..., Any]
    ) -> tuple[float, float]:
        rows, inner, columns = shape
        a = torch.randn(rows, inner, device=self.device).to(kind)
        b = torch.randn(inner, columns, device=self.device).to(kind)
        seconds = []
        for _ in range(8):
            wall, cpu = self._now()
            for _ in range(3):
                product(a, b)
            after = self._now()
            seconds.append(((after[0] - wall) / 3, (after[1] - cpu) / 3))
        wall, cpu = np.median(np.array(seconds[1:]), axis=0)
        operations = 2 * rows * inner * columns / 1e9
        return float(operations / wall), float(operations / cpu)

    def _now(self) -> tuple[float, float]:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()
