"""Where the time of our side goes, and what a job of the testbed takes."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any
from unittest import mock

import numpy as np

from inner_loop_parts.workload import Workload

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::linear", "multiply"),
    "attention": ("NativeAttention", "NativeAttentionBackward", "aten::bmm"),
    "other passes in C": (
        "NativeJoin",
        "NativeJoinBackward",
        "NativeGelu",
        "NativeGeluBackward",
        "NativeLosses",
        "NativeLossesBackward",
    ),
    "optimiser, clipping, zeroing": (
        "aten::_fused_adamw_",
        "aten::linalg_vector_norm",
        "aten::_foreach_norm",
        "aten::zero_",
        "aten::fill_",
    ),
    "activations, softmax, normalisation": (
        "aten::gelu",
        "aten::gelu_backward",
        "aten::_softmax",
        "aten::_log_softmax",
        "aten::_log_softmax_backward_data",
        "aten::native_layer_norm",
        "aten::native_layer_norm_backward",
        "aten::addcmul_",
        "aten::tanh",
        "aten::tanh_backward",
    ),
    "dropout": (
        "_Dropout",
        "_DropoutBackward",
        "aten::index_fill_",
    ),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::index_select", "aten::index_add_"),
    "sums and scalings": (
        "aten::add",
        "aten::add_",
        "aten::mul",
        "aten::mul_",
        "aten::sum",
        "aten::_foreach_mul_",
    ),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
REST = "Python, autograd, memory"


def time_shares(workload: Workload, precision: Any) -> dict[str, float]:
    """Share of each kind of operation in a job of ours, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile, record_function

    from envs.models.native import products
    from inner_loop_parts.ours import Ours

    side = Ours(workload, "cpu", precision)
    side(workload)  # twice: the first jobs of a process fault their memory in
    side(workload)
    found = products._product

    def recorded(*arguments: Any) -> Any:
        with record_function("multiply"):
            return found(*arguments)

    with (
        mock.patch.object(products, "_product", recorded),
        profile(activities=[ProfilerActivity.CPU]) as profiler,
    ):
        side(workload)
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        seconds[KIND_OF.get(event.key, REST)] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    return {kind: spent / total for kind, spent in sorted(seconds.items(), key=lambda x: -x[1])}


def time_testbed(jobs: int = 5) -> dict[str, float]:
    """Median seconds of a score job of the testbed, on one core."""
    from envs.adaptation.jobs import ScoreJob
    from envs.models.runtime import tune_runtime
    from nmg.assembly import generated_setup
    from nmg.resolution import resolve_training

    tune_runtime(threads=1)
    setup = generated_setup("testbed")
    settings = resolve_training({"task": "testbed"}).adaptation
    wall, cpu = [], []
    for seed in range(jobs + 1):
        deal = setup.world.deal(np.random.SeedSequence(seed))
        rng = np.random.default_rng(seed)
        masks = [
            context.maskable & (rng.random(len(context)) < 2 / max(1, context.maskable.sum()))
            for context in deal.contexts
        ]
        job = ScoreJob(deal.contexts, masks, deal.train, deal.score, settings, seed)
        start = time.perf_counter(), time.process_time()
        setup.scorer(job)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {"wall": float(np.median(wall[1:])), "cpu": float(np.median(cpu[1:]))}
