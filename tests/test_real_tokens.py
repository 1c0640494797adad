"""The policy's block on real tokens alone: what every context gives by itself."""

from __future__ import annotations

import pytest
import torch

from agents import real_tokens
from agents.attention_block import AttentionBlock
from agents.real_tokens import RealTokens

LENGTHS = (3, 40, 1, 0, 41, 17, 40, 64)


@pytest.fixture
def padded():
    torch.manual_seed(0)
    real_BL = torch.arange(64) < torch.tensor(LENGTHS)[:, None]
    x_BLW = torch.randn(len(LENGTHS), 64, 12, requires_grad=True)
    return x_BLW, real_BL


@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize("weights", [real_tokens.WEIGHTS, 4000, 1])
def test_states_and_gradients_are_those_of_each_context_by_itself(
    padded, weights, feed_forward, monkeypatch
) -> None:
    monkeypatch.setattr(real_tokens, "WEIGHTS", weights)
    x_BLW, real_BL = padded
    block = AttentionBlock(12, heads=3, feed_forward=feed_forward)
    wanted_BLW = torch.randn(x_BLW.shape)

    def alone() -> list[torch.Tensor]:
        found = []
        for row, length in enumerate(LENGTHS):
            x_LW = x_BLW[row, :length]
            given_LW = block.norm(x_LW) if feed_forward else x_LW
            query, key, value = block.mix(given_LW).view(length, 3, 3, 4).unbind(1)
            scores_HLL = torch.einsum("ihk,jhk->hij", query, key) / 2
            mixed_LW = torch.einsum("hij,jhk->ihk", scores_HLL.softmax(-1), value).flatten(1)
            x_LW = x_LW + block.out(mixed_LW)
            found.append(x_LW + block.feed(x_LW) if feed_forward else block.norm(x_LW))
        return found

    tokens = RealTokens(real_BL)
    got_BLW = tokens.put(block(tokens.take(x_BLW), tokens))
    expected_TW = torch.cat(alone())
    torch.testing.assert_close(got_BLW[real_BL], expected_TW, rtol=1e-5, atol=1e-5)
    assert not got_BLW[~real_BL].any()

    parameters = [x_BLW, *block.parameters()]
    got = torch.autograd.grad((got_BLW * wanted_BLW).sum(), parameters)
    expected = torch.autograd.grad((expected_TW * wanted_BLW[real_BL]).sum(), parameters)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_groups_hold_little_padding_and_few_weights(padded, monkeypatch) -> None:
    monkeypatch.setattr(real_tokens, "WEIGHTS", 3 * 64 * 64 * 2)
    x_BLW, real_BL = padded
    tokens = RealTokens(real_BL)
    parts = tokens.groups(tokens.take(x_BLW), heads=3)
    groups = [real_GL.sum(dim=1).tolist() for _, real_GL in parts]
    lengths = [length for length in sorted(LENGTHS) if length]
    assert [length for group in groups for length in group] == lengths
    assert all(group[-1] <= 1.125 * group[0] + real_tokens.SPARE for group in groups)
    assert all(len(group) == 1 or len(group) * group[-1] ** 2 <= 64 * 64 * 2 for group in groups)


def test_a_gpu_keeps_the_padding(padded) -> None:
    x_BLW, real_BL = padded
    tokens = RealTokens(real_BL.to("meta"))
    block = AttentionBlock(12, heads=3).to("meta")
    got_BLW = tokens.put(block(tokens.take(x_BLW.to("meta")), tokens))
    assert got_BLW.shape == x_BLW.shape


def test_the_papers_block_is_berts_attention() -> None:
    modeling_bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    config = modeling_bert.BertConfig(
        hidden_size=12, num_attention_heads=3, layer_norm_eps=1e-5, attn_implementation="eager"
    )
    torch.manual_seed(0)
    theirs = modeling_bert.BertAttention(config).eval()
    ours = AttentionBlock(12, heads=3, feed_forward=False)
    one, last = theirs.self, theirs.output
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(part, name) for part in (one.query, one.key, one.value)]
            getattr(ours.mix, name).copy_(torch.cat(parts))
            getattr(ours.out, name).copy_(getattr(last.dense, name))
            getattr(ours.norm, name).copy_(getattr(last.LayerNorm, name))
    x_1LW = torch.randn(1, 9, 12)
    tokens = RealTokens(torch.ones(1, 9, dtype=torch.bool))
    got_LW = ours(tokens.take(x_1LW), tokens)
    torch.testing.assert_close(got_LW, theirs(x_1LW)[0][0], rtol=1e-5, atol=1e-6)
