"""From a name to a language model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from envs.models.checks import (
    Head,
    check_padding,
    check_tokens,
    check_weights,
    has_head,
    integer_model,
    lacks_package,
    missing_head,
    no_fit,
    no_model,
)
from envs.models.fast_tokenizer import ROLES, fast_twin, no_moses_needed
from envs.models.language_model import LanguageModel
from envs.models.names import ModelNotFoundError, model_source, only_local, prepared_folder
from envs.models.quiet import quiet
from envs.models.quirks import LOADING
from envs.models.runtime import Precision, check_device
from envs.models.seeding import forked, seed_torch
from envs.models.seq2seq import Seq2SeqModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What transformers raises of a configuration that it cannot make a model of."""


def load_language_model(
    name: str,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    cold_head: bool = False,
) -> LanguageModel:
    """Load a masked language model with its fast tokenizer.

    Args:
        name: ``bert``, ``distilbert``, ``minilm``, a hub id or a folder.
        device: where to put it.
        precision: see :class:`TrainableModel`.
        cold_head: accept minilm without a trained masked-LM head.

    Raises:
        ModelNotFoundError: if there is no such model, no tokenizer, or no trained head, if weights
            are missing or of other sizes than config.json says, or if the tokenizer has tokens that
            the model does not embed.
        ValueError: if the architecture has no masked-LM head or no mask token, if the model
            computes in integers, or if there is no such device.
    """
    check_device(device)
    source = model_source(name, cold_head=cold_head)
    model = _load_model(name, source, "masked", trained_head=not cold_head)
    tokenizer = _load_tokenizer(name, source)
    check_tokens(name, model, tokenizer)
    return LanguageModel(name, model, tokenizer, device=device, precision=precision)


def load_seq2seq(
    name: str,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    languages: tuple[str, str] | None = None,
) -> Seq2SeqModel:
    """Load a sequence-to-sequence language model with its fast tokenizer.

    Args:
        name: a hub id or a folder (``nmg new-lm`` makes one).
        device: where to put it.
        precision: see :class:`TrainableModel`.
        languages: source and target language, by the tokenizer's own codes, for models that want
            them (mBART: ``en_XX``, ``de_DE``).

    Raises:
        ModelNotFoundError: if there is no such model or no tokenizer, if weights are missing or of
            other sizes than config.json says, or if the tokenizer has tokens that the model does
            not embed.
        ValueError: if the architecture has no sequence-to-sequence head, the tokenizer nothing
            that could stand for a masked token, no such language, or wants languages and got none,
            or there is no such device.
    """
    check_device(device)
    source = model_source(name, cold_head=False)
    model = _load_model(name, source, "seq2seq")
    tokenizer = _load_tokenizer(name, source)
    check_tokens(name, model, tokenizer)
    if languages is not None:
        _set_languages(tokenizer, name, languages)
    elif getattr(tokenizer, "tgt_lang", "") is None:  # targets would be marked as sources are
        raise ValueError(
            f"The tokenizer of {name!r} marks texts with their language and was told none; give "
            "--languages, source and target: two of its codes, such as "
            f"{', '.join(_codes(tokenizer)[:5])}."
        )
    return Seq2SeqModel(name, model, tokenizer, device=device, precision=precision)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a language model, which itself is not loaded and needs no head.

    Raises:
        ModelNotFoundError: if there is no such model or no tokenizer.
        ValueError: if the tokenizer is a slow one.
    """
    source = model_source(name, cold_head=not (prepared_folder(name) / "config.json").exists())
    with quiet():
        _load_config(name, source)
        return _load_tokenizer(name, source)


def _set_languages(
    tokenizer: PreTrainedTokenizerBase, name: str, languages: tuple[str, str]
) -> None:
    if not hasattr(tokenizer, "tgt_lang"):
        raise ValueError(f"The tokenizer of {name!r} knows no languages; leave them out.")
    known = _codes(tokenizer)
    unknown = [code for code in languages if code not in known]
    if unknown:
        raise ValueError(
            f"The tokenizer of {name!r} has no language {', '.join(unknown)}; give two of its "
            f"{len(known)} codes, such as {', '.join(known[:5])}."
        )
    tokenizer.src_lang, tokenizer.tgt_lang = languages


def _codes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Of its languages."""
    roles = {getattr(tokenizer, f"{role}_token") for role in ROLES}
    return [token for token in tokenizer.all_special_tokens if token not in roles]


def _load_model(
    name: str, source: str, head: Head, *, trained_head: bool = False
) -> PreTrainedModel:
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    with quiet():
        config = _load_config(name, source)
    if not has_head(config.model_type, head):
        raise ValueError(missing_head(name, config.model_type, head))
    if getattr(config, "quant_mode", False):
        raise ValueError(integer_model(name))
    check_padding(name, config)
    for setting, value in LOADING.get(config.model_type, {}).items():
        setattr(config, setting, value)
    library = {"masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}[head]
    try:
        # The global generator draws what the checkpoint lacks; a load must not depend on it.
        with forked(), quiet():
            seed_torch(0)
            model, found = library.from_pretrained(
                source,
                output_loading_info=True,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are told below, by name
                use_safetensors=True,
                local_files_only=only_local(source),
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
    except ImportError as error:
        raise lacks_package(name, error) from error
    except MISFITS as error:
        raise no_fit(name, error) from error
    check_weights(name, model, head, found, trained_head=trained_head)
    return model


def _load_config(name: str, source: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            source, local_files_only=only_local(source), trust_remote_code=False
        )
    except StrictDataclassError as error:
        raise no_fit(name, error) from error
    except (OSError, ValueError) as error:
        raise no_model(name, source) from error


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
                source, local_files_only=only_local(source), trust_remote_code=False
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
