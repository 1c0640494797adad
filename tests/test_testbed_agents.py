"""Other people's agents run on the testbed environment as it is registered."""

from __future__ import annotations

import gymnasium
import pytest

from envs.wrappers import TokenwiseMasking

pytestmark = pytest.mark.slow
STEPS = 200


@pytest.fixture(scope="module")
def env() -> gymnasium.Env:
    return gymnasium.make("nmg:nmg/MaskTestbed-v0", testbed={"setting": "small"})


def test_ppo_runs_on_the_environment_as_it_is(env) -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    agent = stable_baselines3.PPO("MultiInputPolicy", env, n_steps=100, batch_size=50, seed=0)
    assert agent.learn(STEPS).num_timesteps == STEPS


def test_maskable_ppo_masks_only_what_may_be_masked(env) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    wrapped = TokenwiseMasking(env.unwrapped)
    agent = contrib.MaskablePPO("MultiInputPolicy", wrapped, n_steps=100, batch_size=50, seed=0)
    assert agent.learn(STEPS).num_timesteps == STEPS
    observation, _ = wrapped.reset(seed=1)
    ended = False
    while not ended:
        action, _ = agent.predict(observation, action_masks=wrapped.action_masks())
        observation, _, ended, _, info = wrapped.step(int(action))
    assert info["mask/dropped"] == 0


def test_dqn_runs_token_by_token(env) -> None:
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    wrapped = TokenwiseMasking(env.unwrapped)
    agent = stable_baselines3.DQN(
        "MultiInputPolicy", wrapped, learning_starts=50, buffer_size=1000, seed=0
    )
    assert agent.learn(STEPS).num_timesteps == STEPS
