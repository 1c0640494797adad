"""What a few architectures want otherwise than the others when they are loaded and run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
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


def mend(model: PreTrainedModel) -> None:
    """Put right what the library computes wrongly; changes the model in place.

    ProphetNet's decoder (Qi et al. 2020) gives a query the relative-position bias of another
    position and head when more than one token is decoded at once: the states of a target depend on
    its length, and on tokens that come later. Decoding token by token, as in generation, is right.
    """
    attention: Any
    for attention in model.modules():
        if hasattr(attention, "get_predict_relative_pos_embeddings"):
            one_by_one = attention.get_predict_relative_pos_embeddings
            attention.get_predict_relative_pos_embeddings = partial(
                _ngram_bias, attention, one_by_one
            )


def _ngram_bias(
    attention: Any,
    one_by_one: Callable[..., Tensor],
    hidden_BTGD: Tensor,
    attention_BGHTS: Tensor,
    position_ids: Tensor,
    buckets_BTS: Tensor | None,
) -> Tensor:
    """Bias of query t of predicting stream g on key s, for each head h, (B, G, H, T, S)."""
    if buckets_BTS is None:
        return one_by_one(hidden_BTGD, attention_BGHTS, position_ids, None)
    sizes = (attention.num_buckets, attention.num_attn_heads)
    values_BTGNH = attention.relative_pos_embeddings(hidden_BTGD).unflatten(-1, sizes)
    index_BGHTS = buckets_BTS[:, None, None].long().expand(attention_BGHTS.shape)
    return values_BTGNH.permute(0, 2, 4, 1, 3).gather(-1, index_BGHTS)


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
