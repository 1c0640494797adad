"""Products by instructions for bfloat16: of float32 exact, of bfloat16 summed in float32."""

from __future__ import annotations

import pytest
import torch

from envs.models.native import products
from envs.models.native.library import instruction_set
from envs.models.native.products import linear, multiply
from envs.models.standing import StandingLinear
from tests.conftest import relative

SHAPES = [(128, 128, 128), (33, 65, 97), (7, 40, 10), (160, 300, 700), (16, 1, 1)]


@pytest.fixture
def tiles(monkeypatch):
    """The C code, for matrices of any size."""
    if instruction_set() != "amx":
        pytest.skip("no matrix instructions")
    monkeypatch.setattr(products, "SMALLEST", (1, 1))
    monkeypatch.setattr(products, "_in_use", True)


def matrix(rows: int, columns: int, transposed: bool) -> torch.Tensor:
    """Part of a larger one, with values of many sizes."""
    wide = torch.randn(columns + 3, rows + 3).t() if transposed else None
    x = torch.randn(rows + 3, columns + 3) if wide is None else wide
    return (x * torch.logspace(-6, 6, rows + 3)[:, None])[2:-1, 1:-2]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("add", [False, True])
def test_a_product_is_as_exact_as_float32(shape, transposed, add, tiles) -> None:
    torch.manual_seed(0)
    rows, depth, columns = shape
    a, b = matrix(rows, depth, transposed[0]), matrix(depth, columns, transposed[1])
    around = torch.randn(rows + 2, columns + 2)
    before, out = around.clone(), around[1:-1, 1:-1]
    expected = a.double() @ b.double() + (out.double() if add else 0)
    multiply(a, b, out, add=add)
    for row, right in zip(out, expected, strict=True):  # rows differ by twelve orders of size
        assert relative(row, right) < 1e-6
    around[1:-1, 1:-1] = before[1:-1, 1:-1]
    assert torch.equal(around, before)


@pytest.mark.parametrize("shape", [*SHAPES, (40, 1100, 520)])
@pytest.mark.parametrize("add", [False, True])
def test_gradients_of_bfloat16_are_summed_in_float32(shape, add, tiles) -> None:
    torch.manual_seed(0)
    rows, depth, columns = shape
    grad, x = (matrix(depth, n, False).bfloat16() for n in (rows, columns))
    around = torch.randn(rows + 2, columns + 2)
    before, out = around.clone(), around[1:-1, 1:-1]
    expected = grad.t().double() @ x.double() + (out.double() if add else 0)
    multiply(grad.t(), x, out, add=add)
    assert relative(out, expected) < 1e-6
    around[1:-1, 1:-1] = before[1:-1, 1:-1]
    assert torch.equal(around, before)


def test_infinities_and_what_is_no_number_stay_visible(tiles) -> None:
    a, b = torch.ones(40, 40), torch.ones(40, 40)
    a[3, 5], a[7, 7] = torch.inf, torch.nan
    product = multiply(a, b)
    assert not product[[3, 7]].isfinite().any()
    assert (product[[0, 1, 2]] == 40).all()


def test_layers_give_what_the_library_s_give(tiles) -> None:
    torch.manual_seed(0)
    ours, theirs = StandingLinear(48, 40), torch.nn.Linear(48, 40)
    theirs.load_state_dict(ours.state_dict())
    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter)
    x = torch.randn(2, 30, 48)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    upstream = torch.randn(2, 30, 40)
    for layer, given in zip((ours, theirs), inputs, strict=True):
        layer(given).backward(upstream)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_what_they_are_not_for_is_left_to_torch(monkeypatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(products, "_product", lambda *_: pytest.fail("C was called"))
    for x in (torch.randn(200, 200).double(), torch.randn(20, 200), torch.randn(200, 1)):
        monkeypatch.setattr(products, "_in_use", True)
        assert torch.equal(multiply(x, x.t()), x @ x.t())
    low = torch.randn(200, 200).bfloat16()
    assert torch.equal(linear(low, low, low[0]), (low @ low.t()).add_(low[0]))
