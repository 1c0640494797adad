"""Rows through the optional package ``datasets``: parquet files and data sets of the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "hub:"
"""``hub:owner/name`` or ``hub:owner/name:config`` names a data set of the hub."""

_SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "val": "dev", "test": "test"}


class HubError(ValueError):
    """The optional package is missing, or the hub did not give the data set."""


def parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of one parquet file; class labels come as their names."""
    package = _package(f"Reading the parquet file {path}")
    return _rows(package, package.Dataset.from_parquet(str(path), keep_in_memory=True))


def hub_splits(name: str) -> dict[str, Iterator[Mapping[str, Any]]]:
    """Rows of a hub data set by split: ``train``, ``dev``, ``test``, where it has them.

    Args:
        name: with the prefix ``hub:``.
    """
    package = _package(f"Reading {name}")
    repository, _, config = name.removeprefix(PREFIX).partition(":")
    try:
        found = package.load_dataset(repository, config or None)
    except Exception as error:  # the package raises over a dozen unrelated types here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HubError(
            f"The hub data set {name} could not be loaded ({reason}). Check the name "
            "(hub:owner/name or hub:owner/name:config) and the connection, or give local files."
        ) from error
    return {_SPLITS[key]: _rows(package, found[key]) for key in found if key in _SPLITS}


def _package(what: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise HubError(f"{what} needs the package 'datasets': pip install 'nmg[data]'.") from error
    return datasets


def _rows(package: ModuleType, table: Any) -> Iterator[Mapping[str, Any]]:
    names = {
        column: feature.names
        for column, feature in table.features.items()
        if isinstance(feature, package.ClassLabel)
    }
    for row in table:
        yield {**row, **{column: _name(row[column], names[column]) for column in names}}


def _name(label: int | None, names: Sequence[str]) -> str | None:
    # The hub writes -1 where a test label is kept secret.
    return None if label is None or label < 0 else names[label]
