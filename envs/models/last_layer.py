"""The last layer at the positions that are read, and at no others.

Masked-LM training reads the states of the masked tokens, one in seven or in twenty. In the last
layer all that follows the attention (its output projection, the feed-forward network, two
normalisations) works token by token, so it need not be computed elsewhere. Where the attention's
output meets the residual stream a module of its own, as in BERT's kin, both are cut down there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def find_join(encoder: nn.Module, run: Callable[[], Any]) -> nn.Module | None:
    """The module in which the last layer's attention joins the residual stream, while ``run`` runs
    the encoder: the last one that is called with two states of all tokens, and only once."""
    calls: list[nn.Module] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        tensors = [x for x in args if isinstance(x, Tensor)]
        if len(args) == len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
            calls.append(module)

    hooks = [module.register_forward_pre_hook(note) for module in encoder.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls[-1] if calls and calls.count(calls[-1]) == 1 else None


@contextmanager
def only_at(join: nn.Module, where_M: Tensor) -> Iterator[None]:
    """While open, what follows the module is computed at these positions of a packed row."""

    def cut(module: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(states_1TD.index_select(1, where_M) for states_1TD in args)

    hook = join.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        hook.remove()
