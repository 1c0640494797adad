"""One token a step: the same episode in smaller pieces, for agents of other libraries."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stub_world import FailingExecutor, first_maskable, play, stub_env

from envs.wrappers import TokenwiseMasking


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped:UserWarning")
def test_both_check_envs_pass(tiny_tokenizer):
    gymnasium_check_env(TokenwiseMasking(stub_env(tiny_tokenizer)), skip_render_check=True)
    sb3_check_env(TokenwiseMasking(stub_env(tiny_tokenizer)))


def test_token_by_token_equals_context_by_context(tiny_tokenizer):
    _, reward, info = play(stub_env(tiny_tokenizer), first_maskable, seed=9)
    env = TokenwiseMasking(stub_env(tiny_tokenizer))
    budgets = int(stub_budget(env, seed=9).sum())
    observation, _ = env.reset(seed=9)
    steps, terminated = 0, False
    while not terminated:
        token = int(np.flatnonzero(env.action_masks())[0])
        assert not observation["masked"][token]
        observation, token_reward, terminated, _, token_info = env.step(token)
        steps += 1
        assert terminated or token_reward == 0.0
    assert steps == budgets
    assert token_reward == reward
    assert np.array_equal(token_info["masks"]["agent"], info["masks"]["agent"])
    assert token_info["mask/dropped"] == token_info["mask/repeated"] == 0


def test_useless_choices_end_too_and_are_counted(tiny_tokenizer):
    env = TokenwiseMasking(stub_env(tiny_tokenizer))
    budgets = stub_budget(env, seed=9)
    env.reset(seed=9)
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(0)  # [CLS], again and again
    assert not info["masks"]["agent"].any()
    assert info["mask/dropped"] == len(budgets)
    assert info["mask/repeated"] == int((budgets - 1).sum())


def test_before_an_episode_it_wants_a_reset(tiny_tokenizer):
    env = TokenwiseMasking(stub_env(tiny_tokenizer))
    for act in (env.action_masks, lambda: env.step(1)):
        with pytest.raises(gym.error.ResetNeeded):
            act()


def test_a_step_whose_job_was_not_taken_can_be_repeated(tiny_tokenizer):
    inner = stub_env(tiny_tokenizer, contexts=1)
    inner.executor = FailingExecutor(after=1)
    env = TokenwiseMasking(inner)
    env.reset(seed=9)
    terminated = False
    while not terminated:
        token = int(np.flatnonzero(env.action_masks())[0])
        try:
            _, _, terminated, _, info = env.step(token)
        except OSError:
            _, _, terminated, _, info = env.step(token)
    assert inner.executor.failed
    assert info["mask/repeated"] == 0


def test_only_a_masking_environment_is_wrapped():
    with pytest.raises(ValueError, match="wraps a MaskingEnv"):
        TokenwiseMasking(gym.make("CartPole-v1"))


def test_maskable_ppo_runs(tiny_tokenizer):
    env = TokenwiseMasking(stub_env(tiny_tokenizer))
    model = MaskablePPO("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=2)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(200)
    after = list(model.policy.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not p.equal(old) for p, old in zip(after, before, strict=True))


def test_dqn_runs(tiny_tokenizer):
    env = TokenwiseMasking(stub_env(tiny_tokenizer))
    DQN("MultiInputPolicy", env, buffer_size=500, learning_starts=50).learn(200)


def stub_budget(env: TokenwiseMasking, seed: int) -> np.ndarray:
    env.reset(seed=seed)
    return env.get_wrapper_attr("observe_episode")()["budget"]
