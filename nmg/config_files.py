"""What a ``--config`` file says to each program: the same as a preset of the same words.

Presets describe meta-training; what is for comparisons alone stands there under ``test``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nmg.config import TrainingConfig
from nmg.options import ConfigError, checked, leaves, read_settings


def training_file(path: Path | None) -> dict[str, Any]:
    """What a file says to meta-training; nothing without one.

    Raises:
        FileNotFoundError, ConfigError: if it cannot be read, or a setting cannot be; with its name.
    """
    values = read_settings(path) if path else {}
    values.pop("test", None)
    return checked(TrainingConfig, values, where=str(path))


def comparison_file(path: Path | None, cls: type) -> dict[str, Any]:
    """What a file says to ``nmg test`` or ``nmg generation``; nothing without one.

    A file with settings that only meta-training has, or with ``test``, describes meta-training:
    how much there is in an episode is left out, what it says under ``test`` wins.

    Args:
        path: of the file.
        cls: the program's configuration class.

    Raises:
        FileNotFoundError, ConfigError: if it cannot be read, or a setting cannot be; with its name.
    """
    values = read_settings(path) if path else {}
    own = values.pop("test", {})
    if not isinstance(own, dict):
        raise ConfigError(f"{path}: test is {own!r}; settings were expected under it.")
    known, training = leaves(cls), leaves(TrainingConfig)
    if "task" not in known and values.get("task", "generation") != "generation":
        raise ConfigError(f"{path} is for the task {values['task']}; nmg test compares there.")
    others = {name for name in values if name in training and name not in known}
    if own or others:
        # Contexts of an episode are not those of a comparison.
        values = {k: v for k, v in values.items() if k not in {*others, "contexts"}}
    return checked(cls, values | own, where=str(path))
