"""How long a context may be for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def content_window(
    name: str, max_length: int, tokenizer: PreTrainedTokenizerBase, wanted: int
) -> int:
    """Content tokens of a context, as many as wanted or as the model takes.

    Args:
        name: of the model.
        max_length: longest input that it takes, special tokens included.
        tokenizer: adds the special tokens.
        wanted: tokens.

    Raises:
        ValueError: if it takes none beside its special tokens.
    """
    room = max_length - tokenizer.num_special_tokens_to_add()
    if room < 1:
        raise ValueError(
            f"{name!r} takes inputs of {max_length} tokens, which leaves no room beside special "
            "tokens; give a model that takes longer ones."
        )
    if wanted < 1:
        raise ValueError(f"window is {wanted}; it must be at least 1.")
    return min(wanted, room)
