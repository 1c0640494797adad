"""What a masking policy sees and does: spaces, and contexts padded into observations.

B contexts in a batch, L tokens in a padded context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from envs.text.corpus import Context

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Observation = dict[str, np.ndarray]
"""The entries of ``observation_space``; those of several contexts have a leading B."""

_INT32_MAX = np.iinfo(np.int32).max


def observation_space(length: int, vocab_size: int) -> spaces.Dict:
    """Space of one padded context of ``length`` tokens."""
    return spaces.Dict(
        {
            "input_ids": spaces.Box(0, vocab_size - 1, (length,), np.int32),
            "attention_mask": spaces.Box(0, 1, (length,), np.int8),
            "word_ids": spaces.Box(-1, _INT32_MAX, (length,), np.int32),
            "maskable": spaces.Box(0, 1, (length,), np.int8),
            "context_id": spaces.Box(0, _INT32_MAX, (1,), np.int32),
            "budget": spaces.Box(0, length, (1,), np.int32),
        }
    )


def action_space(length: int) -> spaces.MultiBinary:
    """One bit a token: 1 masks it."""
    return spaces.MultiBinary(length)


def check_budget(budget: float) -> None:
    """See that a budget is a share of the tokens.

    Raises:
        ValueError: if it is none.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"budget is {budget}; it is a share of the tokens, above 0 and at most 1.")


def token_budget(context: Context, share: float) -> int:
    """How many tokens of a context may be masked.

    The share is of the real tokens, special ones included, rounded down, and at least one token
    (Kang et al. 2020); never more than there are maskable tokens.
    """
    whole = int(share * len(context) + 1e-9)  # 0.29 of 100 is 28.999999999999996
    return min(max(1, whole), int(context.maskable.sum()))


def pad_contexts(
    contexts: Sequence[Context],
    context_ids: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    *,
    budget: float,
    length: int | None = None,
) -> Observation:
    """Observations of several contexts at once.

    Args:
        contexts: B contexts of at most ``length`` tokens.
        context_ids: shape (B,).
        tokenizer: its pad token, or token 0 without one, fills the end of a row.
        budget: share of the real tokens that may be masked.
        length: L; by default that of the longest context.

    Returns:
        The entries of ``observation_space``, each with a leading B: ``input_ids`` is (B, L),
        ``budget`` is (B, 1).

    Raises:
        ValueError: if a context is longer than ``length``.
    """
    length = max(map(len, contexts)) if length is None else length
    shape = (len(contexts), length)
    batch: Observation = {
        "input_ids": np.full(shape, tokenizer.pad_token_id or 0, np.int32),
        "attention_mask": np.zeros(shape, np.int8),
        "word_ids": np.full(shape, -1, np.int32),
        "maskable": np.zeros(shape, np.int8),
        "context_id": np.array(context_ids, np.int32).reshape(-1, 1),
        "budget": np.zeros((len(contexts), 1), np.int32),
    }
    for row, context in enumerate(contexts):
        n = len(context)
        if n > length:
            raise ValueError(
                f"Context {int(context_ids[row])} has {n} tokens, the observation only {length}. "
                "Use a smaller window, or a world with a larger max_length."
            )
        batch["input_ids"][row, :n] = context.input_ids
        batch["attention_mask"][row, :n] = 1
        batch["word_ids"][row, :n] = context.word_ids
        batch["maskable"][row, :n] = context.maskable
        batch["budget"][row] = token_budget(context, budget)
    return batch


def observation_row(batch: Observation, row: int) -> Observation:
    """One observation out of a batch, in fresh arrays."""
    return {name: values[row].copy() for name, values in batch.items()}


def as_mask(action: np.ndarray, length: int) -> np.ndarray:
    """An action as bits, bool, shape (L,).

    Args:
        action: zeros and ones of any type, shape (L,).
        length: L.

    Raises:
        ValueError: if the action has another shape, or is no mask.
    """
    given = np.asarray(action)
    if given.shape != (length,):
        raise ValueError(f"A mask has shape {(length,)}, got {given.shape}.")
    bits = given.astype(bool)
    if not np.array_equal(given, bits):
        strange = given[given != bits][0]
        raise ValueError(f"A mask has a bit for each token, 1 to mask it or 0; got {strange}.")
    return bits


def allowed_mask(
    mask: np.ndarray, observation: Observation, rng: np.random.Generator
) -> tuple[np.ndarray, int, int]:
    """The part of an action that the rules allow.

    Tokens that are not maskable are dropped; of too many tokens a random subset is kept.

    Args:
        mask: bits, shape (L,).
        observation: what the action answers, unbatched.
        rng: draws the subset.

    Returns:
        The allowed mask (L,) int8, the bits dropped as not maskable, the bits over the budget.

    Raises:
        ValueError: if the mask has another shape, or is no mask.
    """
    maskable = observation["maskable"].astype(bool)
    wanted = as_mask(mask, len(maskable))
    kept = np.flatnonzero(wanted & maskable)
    dropped = int(wanted.sum()) - len(kept)
    over = max(0, len(kept) - int(observation["budget"][0]))
    if over:
        kept = rng.choice(kept, len(kept) - over, replace=False)
    allowed = np.zeros(maskable.shape, np.int8)
    allowed[kept] = 1
    return allowed, dropped, over


def allowed_masks(
    masks_BL: np.ndarray, observation: Observation, rng: np.random.Generator
) -> np.ndarray:
    """The part of a policy's masks that the rules allow, bool (B, L); see ``allowed_mask``."""
    rows = [
        allowed_mask(mask_L, observation_row(observation, row), rng)[0]
        for row, mask_L in enumerate(masks_BL)
    ]
    return np.stack(rows).astype(bool)


def cut(masks_BL: np.ndarray, contexts: Sequence[Context]) -> list[np.ndarray]:
    """Masks without padding: one for each context, bool (n,)."""
    pairs = zip(masks_BL, contexts, strict=True)
    return [mask_L[: len(context)].astype(bool) for mask_L, context in pairs]
