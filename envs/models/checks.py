"""What a model of the library lacks, in one sentence each: type, head, configuration, weights,
embeddings of its tokenizer's tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from envs.models.names import ModelNotFoundError, hub_is_reachable
from envs.models.quirks import token_embedding

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Head = Literal["masked", "seq2seq"]
HEAD_NAMES: Mapping[Head, str] = {"masked": "masked-LM", "seq2seq": "sequence-to-sequence"}
UNREAD = {"pooler", "contact_head"}
"""Parts of encoders that nothing here reads, which a checkpoint may lack."""


def has_head(model_type: str, head: Head) -> bool:
    """Whether transformers has a model of this type with that head."""
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    libraries: dict[Head, Any] = {"masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
    known = model_type in CONFIG_MAPPING
    return known and CONFIG_MAPPING[model_type] in libraries[head]._model_mapping


def missing_model(name: str, model_type: str) -> str | None:
    """That transformers has no such model, in one sentence; ``None`` if it has."""
    from transformers import CONFIG_MAPPING, __version__

    if model_type in CONFIG_MAPPING:
        return None
    return (
        f"{name!r} is a {model_type} model, which transformers does not know (version "
        f"{__version__} is installed). Give another model."
    )


def missing_head(name: str, model_type: str, head: Head) -> str:
    """That an architecture has no such head, in one sentence."""
    examples = {"masked": "bert, roberta or electra", "seq2seq": "bart, mbart, t5 or pegasus"}
    what = {"masked": "masked language", "seq2seq": "sequence-to-sequence"}[head]
    return (
        f"{name!r} is a {model_type} model, for which transformers has no {HEAD_NAMES[head]} head. "
        f"Give a {what} model, such as {examples[head]}."
    )


def integer_model(name: str) -> str:
    """That a model computes in integers, in one sentence."""
    return (
        f"{name!r} computes in integers (I-BERT's quant_mode), with ranges that training changes "
        "and no job can put back, so that scores would depend on what ran before. Set quant_mode "
        "to false in its config.json."
    )


def no_fit(name: str, error: Exception) -> ModelNotFoundError:
    """That transformers can make no model of a configuration."""
    # What a lookup says is the key alone.
    reason = " ".join((repr if isinstance(error, LookupError) else str)(error).split())
    return ModelNotFoundError(
        f"The config.json of {name!r} describes no model that can be made ({reason}); get it anew."
    )


def lacks_package(name: str, error: ImportError) -> ModelNotFoundError:
    """That a configuration asks for what is not installed."""
    reason = " ".join(str(error).split()).rstrip(".")
    return ModelNotFoundError(
        f"The config.json of {name!r} asks for a package that is not there ({reason}); take that "
        "setting out of it, or install the package."
    )


def check_padding(name: str, config: PreTrainedConfig) -> None:
    """Refuse a configuration whose padding is no token of the model.

    Raises:
        ModelNotFoundError: if it is none.
    """
    pad, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if pad is not None and not 0 <= pad < (math.inf if size is None else size):
        raise ModelNotFoundError(
            f"The config.json of {name!r} has pad_token_id {pad} and vocab_size {size}; it must be "
            "the id of a token: set it to that of the tokenizer's padding token."
        )


def no_model(name: str, source: str) -> ModelNotFoundError:
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


def check_weights(
    name: str, model: PreTrainedModel, head: Head, found: Mapping[str, Any], *, trained_head: bool
) -> None:
    """Refuse weights that are not all there, or of other sizes than config.json says.

    Args:
        name: of the model.
        model: as it was loaded.
        head: which of its models it is.
        found: what ``from_pretrained`` tells of the weights.
        trained_head: whether it must have a trained masked-LM head.

    Raises:
        ModelNotFoundError: if some are missing or do not fit, or there is no trained head.
    """
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
    if trained_head and _lacks_head(model, found["missing_keys"]):
        raise ModelNotFoundError(
            f"{name!r} has no trained masked-LM head: train one by `nmg prepare-lm --model {name} "
            "--corpus FILE --output DIR`, with any plain text of the language, and give that one."
        )


def check_tokens(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding of: any could be drawn as a
    random replacement, hours into a run.

    Raises:
        ModelNotFoundError: if there are some.
    """
    rows, highest = len(token_embedding(model).weight), max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelNotFoundError(
            f"The tokenizer of {name!r} has ids up to {highest}, but the model embeds {rows} "
            f"tokens: call model.resize_token_embeddings({highest + 1}) and save it, or get both "
            "anew."
        )


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
