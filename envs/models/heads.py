"""Which model types and heads the installed transformers has, and what to say of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from envs.models.architectures import ARCHITECTURES

Head = Literal["masked", "seq2seq"]
HEAD_NAMES: Mapping[Head, str] = {"masked": "masked-LM", "seq2seq": "sequence-to-sequence"}


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
    row = ARCHITECTURES.get(model_type)
    fate = "has removed" if row and row.removed else "does not know"
    return (
        f"{name!r} is a {model_type} model, which transformers {fate} (version {__version__} is "
        "installed). Give another model."
    )


def missing_head(name: str, model_type: str, head: Head) -> str:
    """That an architecture has no such head, in one sentence."""
    examples = {"masked": "bert, roberta or electra", "seq2seq": "bart, mbart, t5 or pegasus"}
    what = {"masked": "masked language", "seq2seq": "sequence-to-sequence"}[head]
    return (
        f"{name!r} is a {model_type} model, for which transformers has no {HEAD_NAMES[head]} head. "
        f"Give a {what} model, such as {examples[head]}."
    )
