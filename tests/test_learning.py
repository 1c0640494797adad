"""The default agent learns on the testbed what is worth masking, and only from the scores."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.actor_critic import MaskingActorCritic
from envs import spaces
from envs.masking_env import MaskingEnv
from envs.models.states import TokenStates
from envs.testbed import Testbed, build_testbed

EPISODES, HELD_OUT = 12, 8
SEEDS = range(5)


@pytest.fixture(scope="module")
def bed() -> Testbed:
    return build_testbed("small")


class PermutedScores(gym.Wrapper):
    """Each run of an episode is given the scores of a run drawn at random."""

    def reset(self, **options: Any) -> Any:
        if options.get("seed") is not None:
            self._rng = np.random.default_rng(options["seed"])
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, ended, truncated, info = self.env.step(action)
        if ended:
            names = list(info["scores"])
            given = self._rng.permutation(names)
            info["scores"] = {
                name: info["scores"][other] for name, other in zip(names, given, strict=True)
            }
        return observation, reward, ended, truncated, info


def learned(bed: Testbed, seed: int, *, permuted: bool = False) -> float:
    """Share of informative tokens in what the policy masks in domains of other new words."""
    env: Any = MaskingEnv(
        bed.world, bed.executor, settings=bed.settings, budget=bed.budget, reward="nll_gain"
    )
    steps = EPISODES * env.contexts_per_episode
    states = TokenStates(build_testbed("small").language_model)
    agent = MaskingActorCritic(
        PermutedScores(env) if permuted else env, token_features=states, seed=seed, device="cpu"
    )
    agent.attach_opponent()
    agent.learn(steps)
    world = build_testbed("small", family="test").world
    hits = total = 0
    for number in range(HELD_OUT):
        deal = world.deal(np.random.SeedSequence([99, number]))
        seen = spaces.pad_contexts(
            deal.contexts,
            deal.context_ids,
            world.tokenizer,
            length=world.max_length,
            budget=bed.budget,
        )
        masks_BL, _ = agent.predict(seen, deterministic=True)
        hits += int(world.informative_V[seen["input_ids"]][masks_BL.astype(bool)].sum())
        total += int(masks_BL.sum())
    return hits / total


def test_the_policy_finds_what_is_worth_masking_and_only_by_the_scores(bed) -> None:
    found = np.array([learned(bed, seed) for seed in SEEDS])
    assert found.mean() > 0.8, f"informative share {found}; chance is a third"
    assert found.min() > 0.5, f"informative share {found}; chance is a third"
    # Where the scores say nothing, a policy may still mask all or no keywords, by luck: they lie in
    # one direction of the embeddings. So it takes several seeds to see a difference.
    control = np.array([learned(bed, seed, permuted=True) for seed in SEEDS])
    assert (found - control).mean() > 0.2, f"informative shares {found}, by chance {control}"
