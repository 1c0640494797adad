"""The masked-LM head of a model without its encoder: at masked positions, and at no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def head_logits(model: Any, encoder: nn.Module, hidden_MD: Tensor) -> Tensor:
    """Vocabulary logits_MV of given states.

    The model's own forward pass is run with the encoder standing in for itself, so any head that
    reads the last hidden state works, whatever it is called.
    """
    ids_1M = torch.zeros((1, len(hidden_MD)), dtype=torch.long, device=hidden_MD.device)
    with _returning(encoder, hidden_MD[None]):
        logits_1MV: Tensor = model(input_ids=ids_1M).logits
    return logits_1MV.squeeze(0)


@contextmanager
def _returning(encoder: nn.Module, hidden: Tensor) -> Iterator[None]:
    output = _encoder_output(hidden)
    encoder.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del encoder.forward


def _encoder_output(hidden: Tensor) -> Any:
    """What an encoder returns, and ``None`` for whatever else a head may look at."""
    from transformers.modeling_outputs import BaseModelOutput

    class Output(BaseModelOutput):
        def __getattr__(self, name: str) -> None:
            return None

    return Output(last_hidden_state=hidden)
