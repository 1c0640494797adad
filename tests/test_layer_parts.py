"""Passes between a layer's products, and the vocabulary's loss, against what they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.activations import GELUActivation, NewGELUActivation

from envs.models.dropout import use_fast_dropout
from envs.models.flat import FlatParameters
from envs.models.layer_parts import use_fast_parts
from envs.models.standing import StandingLinear, use_standing_gradients
from envs.models.token_losses import LOST, token_losses
from tests.conftest import relative

RATE = 0.3


class Join(nn.Module):
    """As BERT's kin have it, under other names and in another order."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.scale = nn.LayerNorm(48, eps=1e-5)
        self.map = nn.Linear(7, 48)
        self.drop = nn.Dropout(rate)

    def forward(self, x, residual):
        return self.scale(self.drop(self.map(x)) + residual)


class LateDropout(Join):
    def forward(self, x, residual):
        return self.scale(self.drop(self.map(x) + residual))


class Scaled(Join):
    def forward(self, x, residual, flag):
        return super().forward(x, residual) * flag


class Half(nn.Module):
    """The first half of a feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(7, 48)
        self.activation = GELUActivation()

    def forward(self, x):
        return self.activation(self.up(x))


class TanhHalf(Half):
    def __init__(self) -> None:
        super().__init__()
        self.activation = NewGELUActivation()


def twice(make) -> tuple[nn.Module, FlatParameters, nn.Module]:
    """A model of the part, made fast and with standing gradients, and the same as it is."""
    torch.manual_seed(0)
    ours, plain = nn.Sequential(make()), nn.Sequential(make())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain.load_state_dict(ours.state_dict())
    for model in (ours, plain):
        use_fast_dropout(model)  # so that both draw the same
    use_standing_gradients(ours)
    use_fast_parts(ours)
    return ours[0], FlatParameters(ours), plain[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [lambda: Join(0.0), lambda: Join(RATE), Half])
def test_parts_of_layers_are_what_they_were(make, precision, each_path) -> None:
    ours, flat, plain = twice(make)
    assert type(ours) is not type(plain)
    low, tolerance = precision == "bf16", 1e-5 if precision == "fp32" else 1e-2
    given = [torch.randn(2, 5, 7)]
    if isinstance(plain, Join):
        given.append(torch.randn(2, 5, 48))
    outputs, gradients = [], []
    for model in (ours, plain):
        inputs = [x.clone().requires_grad_() for x in given]
        torch.manual_seed(1)
        for _ in range(2):  # the gradients of two passes add up
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                outputs.append(model(*inputs))
            outputs[-1].float().pow(2).mul(torch.arange(48)).sum().backward()
        gradients.append([x.grad for x in inputs])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            outputs.append(model.eval()(*given))
    for mine, theirs in zip(outputs[:3], outputs[3:], strict=True):
        assert mine.dtype == theirs.dtype
        assert relative(mine, theirs) < tolerance
    gradients[0].append(flat.grad)
    gradients[1].append(torch.cat([p.grad.reshape(-1) for p in plain.parameters()]))
    for mine, theirs in zip(*gradients, strict=True):
        assert relative(mine, theirs) < tolerance


@pytest.mark.parametrize(
    "make", [lambda: LateDropout(RATE), lambda: Scaled(RATE), TanhHalf], ids=str
)
def test_modules_that_compute_something_else_are_left_alone(make) -> None:
    ours, _, plain = twice(make)
    assert type(ours) is type(plain)


@pytest.mark.parametrize(
    ("rate", "residual", "dtype"),
    [(1.0, (5, 48), None), (0.0, (48,), None), (0.0, (1, 48), None), (0.0, (5, 48), torch.float16)],
    ids=["everything dropped", "broadcast", "one row", "half precision"],
)
def test_what_the_c_code_does_not_know_is_computed_as_it_was(rate, residual, dtype) -> None:
    ours, _, plain = twice(lambda: Join(rate))
    given = torch.randn(5, 7), torch.randn(residual)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        torch.testing.assert_close(ours(*given), plain(*given))


def test_the_layer_after_a_part_reads_what_the_part_wrote_in_low_precision() -> None:
    ours, _, plain = twice(lambda: Join(RATE))
    after = StandingLinear(48, 3)
    FlatParameters(after)  # gives it standing gradients
    x, residual = torch.randn(1, 5, 7), torch.randn(1, 5, 48)
    results = []
    for model in (ours, plain):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            state = model(x, residual)
            first = after(state)
            results += [first, after(state.mul_(0))]
    assert relative(results[0], results[2]) < 1e-2
    torch.testing.assert_close(results[1], results[3])  # changed in place, read anew


def test_gelu_is_exact_far_out_and_where_it_is_steep(each_path) -> None:
    half, _, _ = twice(Half)
    with torch.no_grad():
        half.up.weight.zero_()
        half.up.bias.copy_(torch.linspace(-12, 12, 48))
    for parameter in half.parameters():
        parameter.grad.zero_()
    x = torch.zeros(1, 7)
    output = half(x)
    output.sum().backward()
    exact = half.up.bias.detach().double().requires_grad_()
    expected = nn.functional.gelu(exact)
    expected.sum().backward()
    torch.testing.assert_close(output[0].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(half.up.bias.grad.double(), exact.grad, rtol=1e-6, atol=1e-6)


def test_token_losses_are_the_cross_entropy_of_the_rows_that_count(each_path) -> None:
    torch.manual_seed(0)
    for spread in (1.0, 40.0):  # in the second, other tokens' probabilities are lost to rounding
        logits = (spread * torch.randn(9, 501)).requires_grad_()
        targets, weights = torch.randint(0, 500, (7,)), torch.rand(7)
        got = token_losses(logits, targets)
        expected = nn.functional.cross_entropy(logits[:7], targets, reduction="none")
        assert (expected.max() > LOST) == (spread > 1)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        (ours,) = torch.autograd.grad((got * weights).sum(), logits)
        (theirs,) = torch.autograd.grad((expected * weights).sum(), logits)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_token_losses_in_lower_precision_are_those_of_the_rounded_logits(each_path) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 37).bfloat16().requires_grad_(), torch.tensor([36, 0, 5])
    got = token_losses(logits, targets)
    expected = nn.functional.cross_entropy(logits[:3].float(), targets, reduction="none")
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    (ours,) = torch.autograd.grad(got.sum(), logits)
    (theirs,) = torch.autograd.grad(expected.sum(), logits)
    assert ours.dtype == torch.bfloat16
    assert relative(ours, theirs) < 1e-2
    assert not ours[3].any()


@pytest.mark.parametrize("target", [-100, 37])
def test_a_target_that_is_no_word_is_an_error(target, each_path) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        token_losses(torch.randn(2, 37), torch.tensor([0, target]))
