"""What a few architectures want otherwise than the others when they are loaded and run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

LOADING: Mapping[str, Mapping[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "nystromformer": {"num_landmarks": 64, "segment_means_seq_len": 64},
}
"""Settings that a configuration gets whenever a model is made or loaded."""

TOKEN_STATES: Mapping[str, str] = {"perceiver": "logits"}
"""Which of an encoder's outputs has a state for each token, where ``last_hidden_state`` has not."""

_EMBEDDING: Mapping[str, str] = {"perceiver": "perceiver.input_preprocessor.embeddings"}
"""Where the token embedding is, if ``get_input_embeddings`` gives something else."""


def token_embedding(model: PreTrainedModel) -> nn.Embedding:
    """The static embedding of the tokens."""
    where = _EMBEDDING.get(model.config.model_type)
    found: Any = model.get_submodule(where) if where else model.get_input_embeddings()
    return found


def _reformer_length(config: Any, longest: int) -> int:
    if config.axial_pos_embds:
        return math.prod(config.axial_pos_shape)
    chunk = math.lcm(config.local_attn_chunk_length, config.lsh_attn_chunk_length)
    return -(-longest // chunk) * chunk


_PADDING: Mapping[str, Callable[[Any, int], int]] = {
    "perceiver": lambda config, longest: config.max_position_embeddings,
    "reformer": _reformer_length,
}
"""To how many tokens inputs are padded; others take any length."""


def padded_length(config: PreTrainedConfig, longest: int) -> int:
    """To how many tokens a batch has to be padded whose longest sequence has ``longest``."""
    rule = _PADDING.get(config.model_type)
    return longest if rule is None else rule(config, longest)


def fixed_length(config: PreTrainedConfig) -> int | None:
    """The one length of input that a model takes, if there is but one."""
    short, long = padded_length(config, 1), padded_length(config, 10**9)
    return short if short == long else None
