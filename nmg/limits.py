"""What settings may be, each told in one sentence where it is not."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from nmg.options import ConfigError

OF_TEXT = (
    *("contexts", "examples", "train_examples", "score_examples", "test_examples", "held_out"),
    *("test_dataset", "window", "max_length", "stride", "pad_questions", "side", "languages"),
    *("columns", "strict", "precision"),
)
"""Settings that do nothing on the testbed, whose domains and model are of fixed size."""
COUNTING = ("idf", "common", "rare", "keyword", "pmi", "difference")
"""Strategies that count in a corpus."""


def at_least(least: int, **values: int | None) -> None:
    """Refuse a value, given by its setting's name, that is too small."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}.")


def is_share(**values: float) -> None:
    """Refuse a share of tokens, given by its setting's name, that is none."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise ConfigError(
                f"{name} is {value}; it is a share of the tokens, above 0 and at most 1."
            )


def seed_fits(**values: int) -> None:
    """Refuse a seed, given by its setting's name, that a generator would not take."""
    for name, value in values.items():
        if not 0 <= value < 2**32:  # what the libraries' generators take
            raise ConfigError(f"{name} is {value}; it must lie between 0 and {2**32 - 1}.")


def refuse_idle(task: str, given: Collection[str]) -> None:
    """Refuse flags that would do nothing; presets and files serve several tasks and may have them.

    Args:
        task: that is played.
        given: settings given by hand.
    """
    idle = [f"--{name.replace('_', '-')}" for name in given if name in OF_TEXT]
    if task == "testbed" and idle:
        raise ConfigError(
            f"{', '.join(idle)} would do nothing on the testbed, which makes its own texts and "
            "model; leave it out, or give a --task and a --dataset of real text."
        )


def refuse_idle_reference(reference: str | Path | None, strategies: Collection[str]) -> None:
    """Refuse a file of general text that none of the strategies would read.

    Args:
        reference: as given by hand, or ``None``.
        strategies: by name.
    """
    if reference is not None and "difference" not in strategies:
        raise ConfigError(
            f"--reference is {reference}, but only the strategy difference reads it; leave it out, "
            "or ask for that strategy, too."
        )


def refuse_idle_corpus(files: Collection[Path] | None, strategy: str | None) -> None:
    """Refuse text to count in where nothing counts.

    Args:
        files: as given by hand, or ``None``.
        strategy: by name; ``None`` for a learned policy.
    """
    if files and strategy not in COUNTING:
        who = f"the strategy {strategy}" if strategy else "a policy"
        raise ConfigError(
            f"--corpus is {' '.join(map(str, files))}, but {who} counts in no corpus; leave it "
            f"out, or ask for a strategy that does ({', '.join(COUNTING)})."
        )


def for_labelled_text(task: str, **values: object) -> None:
    """Refuse a setting, given by its name, that only tasks on labelled texts have."""
    for name, value in values.items():
        if value is not None and task not in ("qa", "classification"):
            raise ConfigError(
                f"{name} is {value}, but the task is {task}; only qa and classification have it, "
                "so leave it out or give one of them by --task."
            )


def two_columns(names: tuple[str, ...]) -> tuple[str, str] | None:
    """The names of two columns, or ``None`` for the usual ones.

    Raises:
        ConfigError: if there are more or fewer.
    """
    if len(names) not in (0, 2):
        raise ConfigError(
            f"columns is {' '.join(names)}; give two names, of the text and of its label (or of "
            "the source and of the target)."
        )
    return (names[0], names[1]) if names else None


def two_languages(names: tuple[str, ...]) -> None:
    """None, or a source and a target.

    Raises:
        ConfigError: if there are more or fewer.
    """
    if len(names) not in (0, 2):
        raise ConfigError("languages are a source and a target, e.g. en_XX de_DE.")


def refuse_diverged(loss: float, lr: float) -> None:
    """Refuse to save what a training left whose loss is no number.

    Raises:
        ValueError: then.
    """
    if not math.isfinite(loss):
        raise ValueError(
            f"The training diverged: its loss is {loss}. Nothing was saved; give a --lr lower than "
            f"{lr:g}."
        )
