"""Checkpoints: written whole or not at all, found again, and chosen on held-out training data."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from envs.adaptation.jobs import BASE
from envs.folders import whole_folder

AGENT, ADVERSARY = "agent.json", "adversary.json"
"""By these files a folder is known to hold a learned policy: an actor-critic, or a masking module
that learned against the language model."""
MASKING = "masking"
"""Where ``nmg adapt`` leaves such a module, within the folder of the language model."""


class FolderWeights(dict[str, Tensor]):
    """Language-model weights by content key, in a folder that workers and later runs share.

    Args:
        folder: one safetensors file per key.
        base: the model's own weights; kept in memory.
    """

    def __init__(self, folder: Path, base: Tensor) -> None:
        super().__init__({BASE: base})
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: object) -> bool:
        return key == BASE or self._path(str(key)).is_file()

    def __getitem__(self, key: str) -> Tensor:
        from safetensors.torch import load_file

        if key == BASE:
            return super().__getitem__(BASE)
        return load_file(self._path(key), device=str(super().__getitem__(BASE).device))["weights"]

    def __setitem__(self, key: str, weights: Tensor) -> None:
        from safetensors.torch import save_file

        part = self._path(key).with_suffix(f".{os.getpid()}.part")
        save_file({"weights": weights.detach().cpu()}, part)
        part.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def prune_weights(folder: Path, keep: set[str]) -> None:
    """Delete the further pre-trained weights that nothing needs any more."""
    for path in folder.glob("*.safetensors"):
        if path.stem not in keep:
            path.unlink()


def checkpoint_folder(run: Path, episode: int) -> Path:
    return run / "checkpoints" / f"{episode:06d}"


def write_checkpoint(
    run: Path, episode: int, save: Callable[[Path], None], about: dict[str, Any]
) -> Path:
    """Write a checkpoint under a temporary name and move it to its place when it is whole.

    Args:
        run: the run folder.
        episode: episodes played so far.
        save: writes the agent into the folder it is given.
        about: goes to ``run.json``.
    """
    folder = checkpoint_folder(run, episode)
    with whole_folder(folder) as part:
        save(part)
        text = json.dumps({"episode": episode, **about}, indent=2)
        (part / "run.json").write_text(text + "\n", encoding="utf-8")
    return folder


def read_json(path: Path) -> Any:
    """What is in a JSON file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it or put a copy back.") from error


def read_object(path: Path) -> dict[str, Any]:
    """What is in a JSON file that holds names and values.

    Raises:
        ValueError: if it is damaged.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ValueError(f"{path} is damaged (it holds a {kind}); delete it or put a copy back.")
    return found


def read_about(checkpoint: Path) -> dict[str, Any]:
    """What ``write_checkpoint`` was told about it."""
    about = read_json(checkpoint / "run.json")
    if not isinstance(about, dict) or not isinstance(about.get("episode"), int):
        raise ValueError(
            f"{checkpoint / 'run.json'} does not say what the checkpoint is of; delete "
            f"{checkpoint} to use the one before."
        )
    return about


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("*") if path.name.isdecimal())


def last_checkpoint(run: Path) -> Path | None:
    """The checkpoint that ``--resume`` goes on from."""
    found = checkpoints(run)
    return found[-1] if found else None


def chosen_checkpoint(run: Path, start: int = 0) -> Path:
    """The checkpoint to use: best on the validation deals, which are training data.

    Args:
        run: a run folder; or the folder of a policy, or of a model that was adapted by one, which
            is then taken as it is.
        start: first episode that may be used.

    Raises:
        FileNotFoundError: if there is none.
    """
    for place in (run, run / MASKING):
        if any((place / name).is_file() for name in (AGENT, ADVERSARY)):
            return place
    if not run.is_dir():
        raise FileNotFoundError(f"There is no policy in {run}: the folder does not exist.")
    found = [path for path in checkpoints(run) if int(path.name) >= max(1, start)]
    if not found:
        after = f" from episode {start} on" if start else ""
        raise FileNotFoundError(
            f"There is no checkpoint in {run}{after}; give a run folder of nmg train, or one of "
            "its checkpoints."
        )
    # Equal values (no validation at all, too) leave it to the later one.
    return max(found, key=lambda path: (_validation(path), path.name))


def described_choice(given: Path, checkpoint: Path) -> str:
    """A checkpoint, and how it was chosen if it is not what was given."""
    was_given = checkpoint in (given, given / MASKING)
    return f"{checkpoint}{'' if was_given else f' ({how_chosen(checkpoint)})'}"


def how_chosen(checkpoint: Path) -> str:
    """Why it is the one to use; without validation that is the last."""
    return "chosen on training data" if "validation" in read_about(checkpoint) else "the last"


def _validation(checkpoint: Path) -> float:
    """Gain over random; a gain that is not a number, as of a run that diverged, is the least."""
    gain = float(read_about(checkpoint).get("validation", 0.0))
    return -math.inf if math.isnan(gain) else gain
