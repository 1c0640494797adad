"""All weights of a model in one buffer, all gradients in another, both standing.

One copy restores the model, one kernel steps its optimiser, one norm clips it. No step allocates a
gradient and no stage the optimiser's moments: those of the vocabulary-sized embedding are half of a
small model, and to write them anew costs more in page faults than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from envs.models.standing import leave_unwritten, settle

if TYPE_CHECKING:
    from envs.models.token_rows import TokenRows


LARGE = 1 << 16
"""Elements from which on a weight's gradient is not zeroed but written by its first product."""


class FlatParameters:
    """Lays a module's parameters, and gradients for them, in one float32 buffer each.

    The module's parameters become views. Shared parameters are laid once. Clear gradients with
    :meth:`zero_grad`, never with the module's own (which would drop the views).

    Attributes:
        parameter: all weights, a leaf of shape (P,) whose ``grad`` holds all gradients.
    """

    _moments: tuple[Tensor, Tensor] | None = None

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self._large: list[tuple[nn.Parameter, slice]] = []
        self._frozen: list[slice] = []
        weights = torch.cat([p.detach().float().reshape(-1) for p in parameters])
        self.parameter = nn.Parameter(weights)
        self.parameter.grad = torch.zeros_like(weights)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.data = self.parameter.data[start:end].view(parameter.shape)
            parameter.grad = self.parameter.grad[start:end].view(parameter.shape)
            if not parameter.requires_grad:
                self._frozen.append(slice(start, end))
            on_cpu = parameter.device.type == "cpu"
            if on_cpu and parameter.numel() >= LARGE and parameter.requires_grad:
                self._large.append((parameter, slice(start, end)))
                # Autograd, where it adds by itself, does so after this.
                parameter.register_hook(lambda _, parameter=parameter: settle(parameter))
            start = end

    @property
    def weights(self) -> Tensor:
        return self.parameter.data

    @property
    def grad(self) -> Tensor:
        """All gradients, (P,)."""
        assert self.parameter.grad is not None
        return self.parameter.grad

    def part(self, where: slice) -> nn.Parameter:
        """Some of the weights and their gradients, as a parameter of the same memory."""
        part = nn.Parameter(self.weights[where])
        part.grad = self.grad[where]
        return part

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.parameter]

    def adamw(
        self, lr: float, *, weight_decay: float = 0.0, others: Iterable[nn.Parameter] = ()
    ) -> torch.optim.AdamW:
        """A fresh AdamW for all weights and ``others``, its moments in standing buffers.

        Only the newest optimiser of these weights may be used. What is frozen does not decay.
        """
        parts = [(self.parameter, slice(None))]
        if weight_decay and self._frozen:
            parts = [(self.part(where), where) for where in self._between(self._frozen)]
        return self.adamw_of(parts, lr, weight_decay, others)

    def _between(self, left_out: Sequence[slice]) -> list[slice]:
        """All places but some, which are in order."""
        starts = [0, *(where.stop for where in left_out)]
        stops = [*(where.start for where in left_out), len(self.weights)]
        pairs = zip(starts, stops, strict=True)
        return [slice(start, stop) for start, stop in pairs if start < stop]

    def adamw_of(
        self,
        parts: Sequence[tuple[nn.Parameter, slice]],
        lr: float,
        weight_decay: float,
        others: Iterable[nn.Parameter],
    ) -> torch.optim.AdamW:
        """The same for parameters whose moments are to lie at these places of the buffers."""
        parameters = [*(parameter for parameter, _ in parts), *others]
        optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        if self._moments is None:
            self._moments = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        for parameter, where in parts:
            first, second = (moment[where].zero_().view_as(parameter) for moment in self._moments)
            step = torch.zeros((), dtype=torch.float32, device=first.device)
            optimizer.state[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        return optimizer

    def zero_grad(self) -> None:
        self.grad.zero_()

    @contextmanager
    def new_gradients(self, unused: slice = slice(0, 0)) -> Iterator[None]:
        """Gradients that are zero but for what is added to them while this is open.

        Large ones are not zeroed but written by the first product that would be added to them: to
        zero, read and add costs as much as a vocabulary's product does.

        Args:
            unused: places, within those of one parameter, that nothing is added to and nobody
                reads.
        """
        written = [(p, w) for p, w in self._large if not w.start < unused.stop <= w.stop]
        start = 0
        for where in sorted([unused, *(where for _, where in written)], key=lambda w: w.start):
            self.grad[start : where.start].zero_()
            start = where.stop
        self.grad[start:].zero_()
        for parameter, _ in written:
            leave_unwritten(parameter)
        try:
            yield
        finally:
            for parameter, _ in written:
                settle(parameter)


def descend(
    weights: FlatParameters | TokenRows,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    clip: float,
    head: nn.Module | None = None,
) -> None:
    """One step down the gradient of a loss, which is clipped to a norm, of weights and a head."""
    others = [] if head is None else list(head.parameters())
    if head is not None:
        head.zero_grad()
    with weights.new_gradients():
        loss.backward()
    nn.utils.clip_grad_norm_([*weights.parameters, *others], clip, foreach=True)
    optimizer.step()
