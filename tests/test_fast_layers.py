"""Layers written for speed against what they stand for: the same values and the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from envs.models.attention import PackedLayout, packed_attention
from envs.models.dropout import (
    FastDropout,
    draw_dropped,
    fast_dropout,
    zero_places,
)
from envs.models.flat import FlatParameters, descend
from envs.models.native.library import instruction_set, runs_here
from envs.models.rounding import rounded
from envs.models.standing import StandingEmbedding, StandingLinear, use_standing_gradients
from tests.conftest import relative

LONG, SHORT = (50, 61, 40), (5, 9, 3, 9)
HEADS, WIDTH, RATE = 2, 8, 0.3


def plain_attention(qkv, lengths, rate: float, window: int = 1000) -> torch.Tensor:
    """Sequence by sequence in plain operations, the same elements dropped."""
    widths = [rounded(max(lengths) if PackedLayout(lengths).short else n) for n in lengths]
    sizes = [HEADS * width**2 for width in widths]
    kept = zero_places(torch.ones(sum(sizes)), draw_dropped(sum(sizes), rate)).split(sizes)
    outputs, start = [], 0
    for n, width, keep in zip(lengths, widths, kept, strict=True):
        q, k, v = (x[0, :, start : start + n] for x in qkv)
        outside = (torch.arange(n)[:, None] - torch.arange(n)).abs() >= window
        scores = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).masked_fill(outside, -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        keep = keep.view(HEADS, width, width)[:, :n, :n]
        outputs.append((weights * keep / (1 - rate)) @ v)
        start += n
    return torch.cat(outputs, dim=1).transpose(0, 1)[None]


@pytest.mark.parametrize("lengths", [LONG, SHORT, (70,)], ids=["long", "short", "one"])
@pytest.mark.parametrize("rate", [0.0, RATE])
@pytest.mark.parametrize(("filling", "width"), [(0, 8), (3, 8), (3, 33)])
def test_attention_and_its_gradients_are_those_of_plain_operations(
    lengths, rate, filling, width, each_path
) -> None:
    layout = PackedLayout(lengths)
    assert layout.short == (lengths == SHORT)
    torch.manual_seed(0)
    shape = (1, sum(lengths) + filling, HEADS, width)
    qkv = [torch.randn(shape).transpose(1, 2).requires_grad_() for _ in range(3)]
    upstream = torch.randn(shape)

    torch.manual_seed(1)
    got, _ = packed_attention(nn.Module(), *qkv, None, dropout=rate, layout=layout)
    torch.manual_seed(1)
    expected = plain_attention(qkv, lengths, rate)

    assert not got[:, sum(lengths) :].any()
    got, upstream = got[:, : sum(lengths)], upstream[:, : sum(lengths)]
    torch.testing.assert_close(got, expected)
    gradients = torch.autograd.grad(got, qkv, upstream)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, qkv, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("window", [1, 5, 47])
def test_attention_to_a_window_is_that_of_plain_operations(lengths, window, each_path) -> None:
    torch.manual_seed(0)
    shape = (1, sum(lengths), HEADS, WIDTH)
    qkv = [torch.randn(shape).transpose(1, 2).requires_grad_() for _ in range(3)]
    upstream, layout = torch.randn(shape), PackedLayout(lengths)
    torch.manual_seed(1)
    given = {"dropout": RATE, "layout": layout, "sliding_window": window}
    got, _ = packed_attention(nn.Module(), *qkv, None, **given)
    torch.manual_seed(1)
    expected = plain_attention(qkv, lengths, RATE, window)
    torch.testing.assert_close(got, expected)
    gradients = torch.autograd.grad(got, qkv, upstream)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, qkv, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "lengths", [LONG, SHORT, (70,), (257, 1, 300)], ids=["long", "short", "one", "blocks"]
)
@pytest.mark.parametrize("width", [WIDTH, 33])
@pytest.mark.parametrize("window", [0, 47])
def test_attention_in_lower_precision_is_as_near_as_the_precision_is(
    lengths, width, window, each_path
) -> None:
    layout = PackedLayout(lengths)
    torch.manual_seed(0)
    shape = (1, sum(lengths), HEADS, width)
    qkv = [torch.randn(shape).transpose(1, 2).requires_grad_() for _ in range(3)]
    upstream = torch.randn(shape)
    low = [x.detach().bfloat16().requires_grad_() for x in qkv]

    torch.manual_seed(1)
    given = {"dropout": RATE, "layout": layout, "sliding_window": window}
    got, _ = packed_attention(nn.Module(), *low, None, **given)
    torch.manual_seed(1)
    expected = plain_attention(qkv, lengths, RATE, window or 1000)

    assert got.dtype == torch.bfloat16
    assert relative(got, expected) < 1e-2
    ours = torch.autograd.grad(got, low, upstream.bfloat16())
    for low_gradient, gradient in zip(
        ours, torch.autograd.grad(expected, qkv, upstream), strict=True
    ):
        assert low_gradient.dtype == torch.bfloat16
        assert relative(low_gradient, gradient) < 1e-2


def test_attention_to_scores_of_any_size_is_that_of_plain_operations(each_path) -> None:
    layout = PackedLayout((70,))
    torch.manual_seed(0)
    shape = (1, 70, HEADS, WIDTH)
    q, k, v = (torch.randn(shape).transpose(1, 2) for _ in range(3))
    q[0, :, :30] *= 1000
    got, _ = packed_attention(nn.Module(), q, k, v, None, layout=layout)
    torch.testing.assert_close(got, plain_attention((q, k, v), (70,), 0.0))
    k[0, 0, 5, 0] = torch.nan
    got, _ = packed_attention(nn.Module(), q, k, v, None, layout=layout)
    assert got[0, :, 0].isnan().all()
    assert not got[0, :, 1].isnan().any()


def test_several_threads_leave_attention_to_torch() -> None:
    query = torch.zeros(3, HEADS, WIDTH)
    assert runs_here(query) == (instruction_set() is not None)
    torch.set_num_threads(2)
    try:
        assert not runs_here(query)
    finally:
        torch.set_num_threads(1)


def test_lengths_are_rounded_to_few_that_are_little_longer() -> None:
    for parts in (8, 32):
        found = [rounded(n, parts) for n in range(1, 4097)]
        assert all(n <= r < n * (1 + 1 / parts) + 8 and r % 8 == 0 for n, r in enumerate(found, 1))
        assert len(set(found)) <= parts * 12  # there are twelve powers of two
        assert found == sorted(found)


def test_dropout_keeps_its_rate_its_mean_and_its_gradient() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)
    y = fast_dropout(x, 0.1)
    y.sum().backward()
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(0.1, abs=0.002)
    assert y.mean().item() == pytest.approx(1.0, abs=0.002)
    assert torch.equal(x.grad, y.detach())  # ones in: the same elements survive, scaled the same
    layer = FastDropout(0.5).eval()
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize("count", [1, 1000, 100_003])
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5])
def test_the_same_is_dropped_with_c_code_and_without(count, rate, without_c) -> None:
    torch.manual_seed(0)
    here = draw_dropped(count, rate)
    without_c()
    torch.manual_seed(0)
    assert torch.equal(here, draw_dropped(count, rate))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_dropped_elements_are_independent_and_as_frequent_as_asked(rate) -> None:
    torch.manual_seed(0)
    count = 2_000_000
    dropped = 1 - zero_places(torch.ones(count), draw_dropped(count, rate))
    for lag in (0, 1, 2, 5):  # both of two elements: rate squared
        both = (dropped * dropped.roll(lag)).mean().item()
        expected = rate if lag == 0 else rate**2
        spread = (expected * (1 - expected) / count) ** 0.5
        assert both == pytest.approx(expected, abs=4 * spread)


def test_a_draw_that_falls_short_is_continued() -> None:
    torch.manual_seed(0)
    found = [draw_dropped(3, 0.5) for _ in range(4000)]
    assert all((places < 3).all() and (places.diff() > 0).all() for places in found)
    assert sum(map(len, found)) == pytest.approx(6000, abs=4 * (4000 * 3 / 4) ** 0.5)


def test_dropout_of_every_precision_and_layout() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        x = torch.randn(7, 3).to(dtype).t().requires_grad_()
        y = fast_dropout(x, 0.5)
        (gradient,) = torch.autograd.grad(y, x, torch.ones((), dtype=dtype).expand(3, 7))
        assert torch.equal(y[y != 0], 2 * x[y != 0])
        assert torch.equal(gradient, 2.0 * (y != 0).to(dtype))


def layers() -> tuple[nn.Sequential, nn.Sequential]:
    """The same three layers twice; the first lies flat, with standing gradients."""
    torch.manual_seed(0)
    ours, plain = (
        nn.Sequential(nn.Embedding(11, 6, padding_idx=0), nn.Linear(6, 5), nn.Linear(5, 11, False))
        for _ in range(2)
    )
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_standing_gradients_are_the_library_s_and_add_up(precision) -> None:
    ours, plain = layers()
    use_standing_gradients(ours)
    assert type(ours[0]) is StandingEmbedding
    assert type(ours[1]) is StandingLinear
    flat = FlatParameters(ours)
    ids = torch.tensor([[1, 2, 2], [3, 0, 10]])
    for _ in range(2):
        for model in (ours, plain):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                model(ids).float().pow(2).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in plain.parameters()])
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(flat.parameter.grad, expected, rtol=tolerance, atol=tolerance)
    flat.zero_grad()
    assert all(not p.grad.any() for p in ours.parameters())


class Tied(nn.Module):
    """Words that are read, and predicted by the same weights, as given."""

    def __init__(self, predict) -> None:
        super().__init__()
        self.words = nn.Embedding(2100, 512)  # large: more than a million weights
        self.predict = nn.Linear(512, 2100, bias=False)
        self.predict.weight = self.words.weight
        self.by = predict

    def forward(self, ids):
        state = self.words(ids)
        if self.by == "layer":
            return self.predict(state)
        return state @ self.words.weight.t() if self.by == "product" else state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("predict", ["layer", "product", "nothing"])
def test_a_step_descends_what_this_loss_alone_gives(predict, precision) -> None:
    torch.manual_seed(0)
    ours = Tied(predict)
    plain = copy.deepcopy(ours)
    use_standing_gradients(ours)
    flat = FlatParameters(ours)
    optimizers = flat.adamw(0.1), torch.optim.AdamW(plain.parameters(), 0.1, weight_decay=0.0)
    for step in range(3):
        ids = torch.randint(0, 2100, (4,))
        losses = []
        for model in (ours, plain):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                losses.append(model(ids).float().logsumexp(dim=1).mean())
        descend(flat, optimizers[0], losses[0], 1e-2)
        optimizers[1].zero_grad()
        losses[1].backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1e-2)
        optimizers[1].step()
        (expected,) = (p.grad.reshape(-1) for p in plain.parameters())
        assert relative(flat.grad, expected) < (1e-5 if precision == "fp32" else 2e-2), step
    assert relative(flat.weights, plain.words.weight.reshape(-1)) < 1e-2
    with pytest.raises(RuntimeError), flat.new_gradients():
        raise RuntimeError
    assert not flat.grad.any()


def test_layers_that_read_the_same_lower_it_once_and_never_read_what_it_was() -> None:
    ours, plain = layers()
    use_standing_gradients(ours)
    flat = FlatParameters(ours)
    assert flat.parameter.grad is not None
    for change in (0.0, 1.0):
        for model in (ours, plain):
            x = torch.ones(2, 6, requires_grad=True).clone()
            with torch.autocast("cpu", torch.bfloat16):
                first = model[1](x)
                x = x.add_(change)
                loss = (first - 2 * model[1](x)).float().pow(2).sum()
            loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in plain[1].parameters()])
    got = torch.cat([p.grad.reshape(-1) for p in ours[1].parameters()])
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)


def test_layers_without_a_standing_buffer_train_as_usual() -> None:
    ours, plain = layers()
    use_standing_gradients(ours)
    ids = torch.tensor([1, 2])
    for model in (ours, plain):
        model(ids).sum().backward()
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
