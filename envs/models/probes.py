"""What a language model can do, tried on a few short sequences when it is loaded.

* Whether it can be *packed* (no padding): its attention goes through transformers' attention
  interface and its positions can be given; otherwise batches are padded to their longest sequence.
* Whether its vocabulary head works token by token, so that it need be computed at masked positions
  only; otherwise it is computed everywhere.
* Whether the last layer can be computed at those positions only (``last_layer.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from envs.models.attention import PACKED, WIDEST, takes_jagged
from envs.models.last_layer import find_join
from envs.models.seeding import forked

if TYPE_CHECKING:
    from envs.models.language_model import LanguageModel

TOLERANCE = 1e-3
"""Relative: far above rounding, far below a wrong position or a leak between sequences."""
UNABLE = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)
"""What architectures raise that are asked for what they cannot do."""


def probe_width(lm: LanguageModel) -> int:
    """Size of the hidden states, asked of the states themselves: configurations name it in many
    ways."""
    with _evaluating(lm):
        return int(lm.hidden_states(_sequences(lm)).shape[1])


def probe_packing(lm: LanguageModel) -> bool:
    """Try packed against padded; keep the attention and the first position offset that agree."""
    if "position_ids" not in lm.batches.accepts:
        return False
    attention, pad = lm.model.config._attn_implementation, lm.model.config.pad_token_id or 0
    with _evaluating(lm):
        lm.packs = False
        expected = lm.hidden_states(_sequences(lm))
    lm.packs = True
    lm.model.set_attn_implementation(PACKED)
    for offset in (0, pad + 1):
        lm.batches.position_offset = offset
        if _agrees(lm, expected) and (not takes_jagged(lm.device) or _trains(lm)):
            return True
    lm.model.set_attn_implementation(attention)
    lm.batches.position_offset = 0
    return False


def _agrees(lm: LanguageModel, expected: Tensor) -> bool:
    with _evaluating(lm):
        try:
            with warnings.catch_warnings():  # that jagged tensors are young, said once
                warnings.simplefilter("ignore", UserWarning)
                return _close(lm.hidden_states(_sequences(lm)), expected)
        except UNABLE:
            return False


def _trains(lm: LanguageModel) -> bool:
    """Whether a training step runs in the precision that is asked for: kernels for training are
    not those for evaluation."""
    training = lm.model.training
    with forked(lm.device), torch.enable_grad():
        lm.model.train()
        try:
            lm.hidden_states(_sequences(lm)).square().sum().backward()
        except UNABLE:
            return False
        finally:
            lm.model.train(training)
            lm.flat.zero_grad()
    return True


def probe_head(lm: LanguageModel) -> bool:
    """Try the head on states of its own against the whole model."""
    sequences = _sequences(lm)
    with _evaluating(lm):
        batch = lm.batches.padded(sequences, None)
        with lm.unpacked():
            expected = lm.model(**batch).logits[batch["attention_mask"].bool()].float()
        try:
            got = lm.head_logits(lm.hidden_states(sequences))
        except UNABLE:
            return False
    return _close(got, expected)


def probe_join(lm: LanguageModel, encoder: nn.Module) -> nn.Module | None:
    """Try a packed model's states at some positions against those of all."""
    sequences, positions = _sequences(lm), np.array([1, 6, 7, 11, 0])
    with _evaluating(lm):
        expected = lm.states_at(sequences, positions)
        lm.join = find_join(encoder, lambda: lm.hidden_states(sequences))
        try:
            agrees = _close(lm.states_at(sequences, positions), expected)
        except UNABLE:
            return None
    return lm.join if agrees else None


def _sequences(lm: LanguageModel) -> list[np.ndarray]:
    """Two short ones, one of them with mask tokens, to which some models scale a whole row; one
    longer than a layer's window where the model has windows."""
    rng = np.random.default_rng(0)
    config, pad = lm.model.config, lm.model.config.pad_token_id
    window = getattr(config, "sliding_window", None) or 0
    longest = (getattr(config, "max_position_embeddings", 0) or 10**6) - 2
    beyond = [min(window + 8, longest)] if 0 < window < WIDEST else []
    ids = [i for i in range(min(lm.vocab_size, 4096)) if i not in (pad, lm.mask_token_id)]
    sequences = [rng.choice(ids, size=n).astype(np.int64) for n in (7, 5, *beyond)]
    sequences[0][2:4] = lm.mask_token_id
    return sequences


@contextmanager
def _evaluating(lm: LanguageModel) -> Iterator[None]:
    """Without gradients, in full precision, with the module's mode put back afterwards."""
    training, precision = lm.model.training, lm.precision
    lm.model.eval()
    lm.precision = "fp32"
    try:
        with torch.no_grad():
            yield
    finally:
        lm.precision = precision
        lm.model.train(training)


def _close(got: Tensor, expected: Tensor) -> bool:
    if got.shape != expected.shape:
        return False
    error = (got - expected).norm() / expected.norm().clamp_min(1e-12)
    return bool(error < TOLERANCE)
