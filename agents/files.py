"""Agents' files: tensors in safetensors, everything else in JSON. Reading them cannot run code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

FORMAT = 1


def prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays under names that start with a prefix and a dot."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def part(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those arrays that ``prefixed`` gave this prefix, without it."""
    start = len(prefix) + 1
    return {name[start:]: a for name, a in arrays.items() if name.startswith(f"{prefix}.")}


def module_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """Weights and buffers of a module."""
    return {name: value.cpu().numpy() for name, value in module.state_dict().items()}


def fill_module(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Take back what ``module_arrays`` gave."""
    module.load_state_dict({name: torch.as_tensor(a.copy()) for name, a in arrays.items()})


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Moments and steps of an optimiser, by the number of the weight and a name."""
    return {
        f"{index}.{name}": value.cpu().numpy()
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def fill_optimizer(optimizer: torch.optim.Optimizer, arrays: Mapping[str, np.ndarray]) -> None:
    """Take back what ``optimizer_arrays`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, array in arrays.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = torch.as_tensor(array.copy())
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def check_vocabulary(whose: str, made_for: str | None, found: str | None) -> None:
    """See to it that token ids mean the same, where both sides say what they mean.

    Args:
        whose: what was loaded, as the subject of a sentence.
        made_for: hash of the tokenizer that it was trained with.
        found: hash of the one that it is to be used with.

    Raises:
        ValueError: if they do not.
    """
    if made_for and found and made_for != found:
        raise ValueError(
            f"{whose} was trained with another tokenizer, whose ids are other words; give the "
            "language model that it was trained with, or one adapted from it."
        )


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file."""
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """What ``write_tensors`` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    _check_presence(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); put a copy back.") from error


def read_json(path: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """The names and values of a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, lacks a required name or is of another format.
    """
    _check_presence(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); put a copy back.") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{path} is damaged (it holds a {kind}); put a copy back.")
    missing = [name for name in required if name not in content]
    if missing:
        raise ValueError(f"{path} is damaged (it has no {', '.join(missing)}); put a copy back.")
    if content.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path} has format {content['format']}; this version reads {FORMAT}.")
    return content


def mismatch(about: Path, tensors: str, error: Exception) -> ValueError:
    """What to raise where a description and the tensors beside it could not be read as one.

    Args:
        about: the description.
        tensors: name of the other file.
        error: what came of it.
    """
    reason = " ".join(f"{type(error).__name__}: {error}".split())  # torch's has many lines
    return ValueError(
        f"{about} is damaged, or not that of the {tensors} beside it ({reason}); "
        "put a copy of both back."
    )


def _check_presence(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give a folder that an agent was saved to.")
