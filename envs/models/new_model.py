"""Models with random weights, small or large, from the table of architectures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envs.models.architectures import ARCHITECTURES, WINDOW, Of
from envs.models.checks import Head, has_head, missing_head, missing_model
from envs.models.quirks import LOADING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class UnknownArchitectureError(ValueError):
    """No model of this architecture can be made."""


@dataclass(frozen=True)
class ModelSize:
    """Size of a model made from a configuration.

    Attributes:
        width: of the hidden states.
        layers: of the encoder, and again of the decoder where there is one.
        heads: attention heads; they divide the width.
        length: longest input, special tokens included.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    length: int = 128

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                f"width is {self.width} and heads {self.heads}; the width must be even and a "
                "multiple of the heads."
            )


def new_model(
    model_type: str,
    head: Head,
    tokenizer: PreTrainedTokenizerBase,
    size: ModelSize,
    *,
    seed: int = 0,
    **settings: Any,
) -> PreTrainedModel:
    """A model with random weights.

    Args:
        model_type: a row of the table.
        head: which of its models.
        tokenizer: gives the vocabulary and the ids of the special tokens.
        size: how large.
        seed: of the weights; torch's global generator is left as it was.
        settings: of the configuration, by its own names; they win over the table's.

    Raises:
        UnknownArchitectureError: if the table has no such row, the library no such model, or the
            model no such head.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    from envs.models.seeding import forked, seed_torch

    row = ARCHITECTURES.get(model_type)
    if row is None:
        raise UnknownArchitectureError(
            f"There is no architecture {model_type!r}; there are {', '.join(ARCHITECTURES)}."
        )
    missing = missing_model(row.title, model_type)
    if missing is None and not has_head(model_type, head):
        missing = missing_head(row.title, model_type, head)
    if missing:
        raise UnknownArchitectureError(missing)
    meant = _values(size, tokenizer)
    values = {
        name: meant[value] if isinstance(value, Of) else value
        for name, value in row.settings.items()
    }
    ids = {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id")
        for role in ("pad", "bos", "eos", "cls", "sep")
    }
    ids["eos_token_id"] = meant[Of.END]
    config = AutoConfig.for_model(
        model_type,
        **{
            "vocab_size": len(tokenizer),
            **ids,
            **values,
            **LOADING.get(model_type, {}),
            **settings,
        },
    )
    library = {"masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}[head]
    with forked():
        seed_torch(seed)
        return library.from_config(config)


def _values(size: ModelSize, tokenizer: PreTrainedTokenizerBase) -> dict[Of, Any]:
    """What the settings of the table stand for."""
    return {
        Of.WIDTH: size.width,
        Of.HALF: size.width // 2,
        Of.HEADS: size.heads,
        Of.HEAD: size.width // size.heads,
        Of.INNER: 4 * size.width,
        Of.LAYERS: size.layers,
        Of.SPREAD: size.width**-0.5,
        Of.EACH: [WINDOW] * size.layers,
        # RoBERTa's kin begin to count after the padding id; a few more do no harm elsewhere.
        Of.POSITIONS: size.length + 8,
        Of.WINDOWS: math.ceil(size.length / WINDOW) * WINDOW + 8,
        Of.VOCABULARY: len(tokenizer),
        Of.PAD: tokenizer.pad_token_id,
        # Tokenizers of BERT's kin end a text with [SEP] and name no other end.
        Of.END: tokenizer.sep_token_id
        if tokenizer.eos_token_id is None
        else tokenizer.eos_token_id,
    }
