"""Rewards against differences taken by hand."""

from __future__ import annotations

import pytest
from stub_world import first_maskable, play, stub_env

from envs.adaptation.jobs import Score
from envs.reward import gain, nll_gain, resolve_reward, sign

SCORES = {
    "agent": Score({"f1": 60.5, "nll": 1.25}),
    "random": Score({"f1": 60.0, "nll": 1.0}),
    "none": Score({"f1": 70.0, "nll": 2.0}),
}
NAMES = ["random", "none"]


def test_gain_is_the_difference_to_the_first_reference_in_the_metrics_direction():
    assert gain(SCORES, NAMES, metric="f1", higher_is_better=True) == 0.5
    assert gain(SCORES, NAMES, metric="nll", higher_is_better=False) == -0.25
    assert gain(SCORES, NAMES[::-1], metric="f1", higher_is_better=True) == -9.5
    assert nll_gain(SCORES, NAMES) == -0.25


@pytest.mark.parametrize(("agent", "expected"), [(2.0, 1.0), (1.0, 0.0), (0.5, -1.0)])
def test_sign_is_win_tie_or_loss(agent, expected):
    scores = {"agent": Score({"f1": agent}), "random": Score({"f1": 1.0})}
    assert sign(scores, ["random"], metric="f1", higher_is_better=True) == expected


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'bleu', but the score has f1, nll"):
        gain(SCORES, NAMES, metric="bleu")
    with pytest.raises(ValueError, match="at least one reference"):
        gain(SCORES, [])
    with pytest.raises(ValueError, match="one of gain, sign, nll_gain"):
        resolve_reward("win", "f1", True)


@pytest.mark.parametrize(("name", "metric"), [("gain", "accuracy"), ("nll_gain", "nll")])
def test_named_rewards_in_the_environment(tiny_tokenizer, name, metric):
    _, reward, info = play(stub_env(tiny_tokenizer, reward=name), first_maskable, seed=1)
    ours, theirs = (info["scores"][side][metric] for side in ("agent", "random"))
    assert reward == (theirs - ours if metric == "nll" else ours - theirs)


def test_any_callable_is_a_reward(tiny_tokenizer):
    def absolute(scores, references):
        assert references == []
        return scores["agent"].metrics["accuracy"]

    env = stub_env(tiny_tokenizer, reward=absolute, references={})
    _, reward, info = play(env, first_maskable, seed=1)
    assert reward == info["scores"]["agent"]["accuracy"]
