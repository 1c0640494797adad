"""To what length the architectures want their inputs padded; most take any."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _reformer_length(config: Any, longest: int) -> int:
    if config.axial_pos_embds:
        return math.prod(config.axial_pos_shape)
    chunk = math.lcm(config.local_attn_chunk_length, config.lsh_attn_chunk_length)
    return -(-longest // chunk) * chunk


_PADDING: Mapping[str, Callable[[Any, int], int]] = {
    "perceiver": lambda config, longest: config.max_position_embeddings,
    "reformer": _reformer_length,
}


def padded_length(config: PreTrainedConfig, longest: int) -> int:
    """To how many tokens a batch has to be padded whose longest sequence has ``longest``."""
    rule = _PADDING.get(config.model_type)
    return longest if rule is None else rule(config, longest)


def fixed_length(config: PreTrainedConfig) -> int | None:
    """The one length of input that a model takes, if there is but one."""
    short, long = padded_length(config, 1), padded_length(config, 10**9)
    return short if short == long else None
