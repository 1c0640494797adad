"""Draws of torch that a seed decides, and that no other generator knows of.

``torch.manual_seed`` seeds every GPU, also those whose state nobody puts back: whoever else draws
there (an agent beside a language model on the CPU) would draw the same again after every job.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def forked(device: str | torch.device = "cpu") -> AbstractContextManager[None]:
    """In which draws on the CPU, and on a device, leave their generators as they were."""
    gpu = torch.device(device).type == "cuda"
    return torch.random.fork_rng(devices=[device] if gpu else [])


def seed_torch(seed: int, device: str | torch.device = "cpu") -> None:
    """Seed the CPU's global generator, and a device's, with what ``torch.manual_seed`` would."""
    torch.default_generator.manual_seed(int(seed))
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(int(seed))
