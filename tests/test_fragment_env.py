"""The environment of MASS: actions are fragments, references too."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

import envs  # noqa: F401  (registers the environments)
from agents.fragments import FragmentOf, densest_fragment
from agents.strategies import make_strategy
from envs.adaptation.jobs import AdaptationSettings
from envs.fragment_env import FragmentMaskingEnv, RandomFragment, fragment_of
from envs.models.new_model import ModelSize, new_model
from envs.models.seq2seq import Seq2SeqModel
from tests.conftest import SENTENCES
from tests.stub_world import DIRECTIONS, StubExecutor, StubWorld, play


def observation(maskable, budget):
    return {"maskable": np.array(maskable, np.int8), "budget": np.array([budget], np.int32)}


@pytest.mark.parametrize(
    ("bits", "budget", "fragment", "dropped", "over"),
    [
        ("011100", 4, "011100", 0, 0),  # as it is
        ("011101", 4, "011100", 1, 0),  # what comes after the run is ignored
        ("011110", 2, "011000", 0, 2),  # as far as the budget goes
        ("100110", 2, "000110", 1, 0),  # it begins at a maskable token
        ("000000", 2, "000000", 0, 0),
    ],
)
def test_what_an_action_means(bits, budget, fragment, dropped, over):
    mask = np.array([int(bit) for bit in bits])
    got = fragment_of(mask, observation([0, 1, 1, 1, 1, 1], budget))
    assert ("".join(map(str, got[0])), *got[1:]) == (fragment, dropped, over)


def test_special_tokens_do_not_interrupt():
    mask, dropped, _ = fragment_of(np.array([1, 1, 0, 1, 1]), observation([1, 1, 0, 1, 1], 4))
    assert mask.tolist() == [1, 1, 0, 1, 1]
    assert dropped == 0
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        fragment_of(np.ones(3), observation([1, 1], 1))


def contiguous(mask, maskable):
    inside = mask[maskable.astype(bool)]
    return (np.diff(np.flatnonzero(inside)) == 1).all()


def test_agent_and_references_are_fragments(tiny_tokenizer):
    env = FragmentMaskingEnv(
        StubWorld(tiny_tokenizer),
        StubExecutor(),
        budget=0.3,
        references={"random": "random", "idf": make_strategy("random"), "none": "none"},
        headline="accuracy",
        higher_is_better=DIRECTIONS,
    )
    seen, _, info = play(env, lambda each: np.ones(24, np.int8), seed=3)
    rows = np.stack([each["maskable"] for each in seen[:-1]])
    budgets = np.array([int(each["budget"][0]) for each in seen[:-1]])
    for masks in info["masks"].values():
        assert all(contiguous(mask, row) for mask, row in zip(masks, rows, strict=True))
    assert (info["masks"]["agent"].sum(1) == budgets).all()
    assert (info["masks"]["random"].sum(1) == budgets).all()
    assert not info["masks"]["none"].any()
    expected = sum(int(row.sum()) - budget for row, budget in zip(rows, budgets, strict=True))
    assert info["mask/over_budget"] == expected


@pytest.mark.parametrize("reading", [fragment_of, densest_fragment])
@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        (np.full(24, np.nan), "1 to mask it or 0; got nan"),
        (np.ones(3), r"shape \(24,\), got \(3,\)"),
    ],
)
def test_what_is_no_mask_is_refused_whoever_gives_it(tiny_tokenizer, reading, action, complaint):
    class Strange:
        def predict(self, observation, **options):
            return np.stack([action] * len(observation["input_ids"])), None

    world, executor = StubWorld(tiny_tokenizer), StubExecutor()
    for references, given in (({"none": "none"}, action), ({"x": Strange()}, np.ones(24))):
        env = FragmentMaskingEnv(world, executor, references=references, reading=reading)
        env.reset(seed=3)
        with pytest.raises(ValueError, match=complaint):
            env.step(given)


def test_random_fragments_are_uniform():
    policy, starts = RandomFragment(0), []
    seen = observation([0, 1, 1, 1, 1, 0], 2) | {"input_ids": np.zeros(6, np.int32)}
    for _ in range(600):
        mask, _ = policy.predict(seen)
        assert mask.sum() == 2
        starts.append(int(mask.argmax()))
    assert np.bincount(starts)[1:4] == pytest.approx([200, 200, 200], abs=50)


def test_any_policy_chooses_fragments():
    """The window with the most of the policy's tokens, and the whole budget of it."""

    class Fixed:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            self.budget = observation["budget"]
            return np.array([[0, 1, 0, 0, 1, 1, 0, 0]]), state

    fixed = Fixed()
    seen = {
        "input_ids": np.zeros((1, 8), np.int32),
        "word_ids": np.arange(8)[None],
        "maskable": np.array([[0, 1, 1, 1, 1, 1, 1, 0]]),
        "budget": np.array([[3]], np.int32),
    }
    mask, _ = FragmentOf(fixed).predict(seen)
    assert mask.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]
    assert fixed.budget.tolist() == [[3]]
    FragmentOf(fixed, share=0.4).predict(seen)
    assert fixed.budget.tolist() == [[1]]
    with pytest.raises(ValueError, match="share is 0"):
        FragmentOf(fixed, share=0)


@pytest.fixture
def generation_env(tmp_path, bpe_tokenizer):
    pytest.importorskip("sacrebleu")
    model = new_model("bart", "seq2seq", bpe_tokenizer, ModelSize(32, 1, 2, 64))
    Seq2SeqModel("tiny", model, bpe_tokenizer).save(tmp_path / "model")
    rows = [{"source": text, "target": text.lower()} for text in SENTENCES * 3]
    for number, row in enumerate(rows):
        row["source"] = f"{number} {row['source']}"
    path = tmp_path / "pairs"
    path.mkdir()
    (path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (path / "test.jsonl").write_text("{no world reads the test split")
    settings = AdaptationSettings(1, 4, 1e-3, finetune_epochs=1, finetune_lr=1e-3)

    def make(**options):
        return gym.make(
            "nmg/MaskGeneration-v0",
            dataset=str(path),
            model=str(tmp_path / "model"),
            contexts_per_episode=3,
            examples_per_episode=4,
            max_target_length=12,
            **{"settings": settings, **options},
        )

    return make


def test_the_registered_environment_pays_the_gain_in_the_generation_score(generation_env):
    env = generation_env(reward="nll_gain").unwrapped
    for side in (env, generation_env(side="target", reward="nll_gain").unwrapped):
        _, reward, info = play(side, lambda each: each["maskable"], seed=0)
        scores = info["scores"]
        assert set(scores["agent"]) == {"bleu", "nll", "perplexity"}
        assert reward == pytest.approx(scores["random"]["nll"] - scores["agent"]["nll"])
        assert reward != 0
    assert env.headline == "bleu"


def test_without_settings_it_has_those_of_its_id(generation_env):
    assert generation_env(settings=None).unwrapped.settings.finetune_epochs == 3


def test_the_checkers_pass(generation_env):
    env = generation_env()
    check_env(env.unwrapped)
    check_env_sb3(env)
