"""Credit by known answers, and what each kind of opponent does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from masking_toy import CONTEXTS, ToyMasking, TypeStates
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import self_play
from agents.actor_critic import MaskingActorCritic
from agents.budgeted import token_log_probs
from agents.experience import RIVAL, Experience
from agents.self_play import Perturbation, assign_credit, relative_scores
from agents.settings import AgentSettings

NAN = float("nan")
SMALL = AgentSettings(updates=2)
TOKENS = replace(SMALL, exploration="tokens", self_play="random")
MASKS = {
    "agent": np.array([[1, 1, 1, 1, 0, 0]]),
    "opponent": np.array([[1, 0, 1, 0, 1, 0]]),
    "random": np.array([[1, 1, 0, 0, 0, 1]]),
}


@pytest.mark.parametrize(
    ("player", "kind", "expected"),
    [
        # both masked the first; only the opponent missed the second, only random the third
        ("agent", "sign", [NAN, -1, 1, -1, NAN, NAN]),
        ("agent", "difference", [NAN, -2, 3, -2, NAN, NAN]),
        ("opponent", "sign", [NAN, NAN, 1, NAN, 1, NAN]),
    ],
)
def test_credit_goes_to_tokens_masked_alone(player, kind, expected):
    scores = {"agent": 5.0, "opponent": 7.0, "random": 2.0}
    rival = "opponent" if player == "agent" else "agent"
    credit = assign_credit(MASKS, scores, player, (rival, "random"), kind)
    assert np.array_equal(credit[0], np.float32(expected), equal_nan=True)


def test_credit_with_a_tie_one_rival_and_none():
    tie = assign_credit(MASKS, {"agent": 2.0, "random": 2.0}, "agent", ("random",), "sign")
    assert np.array_equal(tie[0], np.float32([NAN, NAN, 0, 0, NAN, NAN]), equal_nan=True)
    alone = assign_credit(MASKS, {"agent": 2.0}, "agent", ("random",), "difference")
    assert np.array_equal(alone[0], np.float32([2, 2, 2, 2, NAN, NAN]), equal_nan=True)


def test_sign_keeps_only_who_beat_whom():
    assert np.allclose(relative_scores(np.array([5.0, 9.0, 5.0]), "sign"), [-1 / 3, 2 / 3, -1 / 3])
    assert relative_scores(np.array([5.0, 9.0]), "difference").tolist() == [5.0, 9.0]


def trained(settings, episodes, **toy):
    env = ToyMasking(**toy)
    agent = MaskingActorCritic(env, settings, token_features=TypeStates(), seed=1, device="cpu")
    agent.attach_opponent()
    agent.learn(episodes * CONTEXTS)
    return agent, env


def weights(network):
    return np.concatenate([p.detach().numpy().reshape(-1) for p in network.parameters()])


def test_no_opponent_is_attached_without_self_play():
    _, env = trained(replace(SMALL, self_play="none"), 2)
    assert set(env.references) == {"random"}


def test_opponent_masks_within_the_budget_alone_and_in_batches():
    agent, env = trained(SMALL, 3)
    env.reset(seed=4)
    everything = env.observe_episode()
    masks, _ = agent.opponent.predict(everything)
    assert masks.shape == (CONTEXTS, 12)
    assert masks.dtype == np.int8
    assert not (masks & ~everything["maskable"].astype(bool)).any()
    assert (masks.sum(1) <= everything["budget"][:, 0]).all()
    agent.opponent.seed(3)
    batch = agent.opponent.predict(everything)[0]
    agent.opponent.seed(3)
    single = [{k: v[i] for k, v in everything.items()} for i in range(CONTEXTS)]
    assert (np.stack([agent.opponent.predict(o)[0] for o in single]) == batch).all()


def test_antithetic_opponent_is_perturbed_the_other_way():
    agent, _ = trained(SMALL, 4)
    mine = agent.experience.draw_perturbation(np.random.default_rng(0))
    opposite = agent.experience.opponent_perturbation(mine)
    assert np.array_equal(opposite.direction, -mine.direction)
    assert 0 <= mine.certainty == opposite.certainty <= SMALL.lean * SMALL.entropy


def test_opponent_is_random_before_replay_starts():
    agent, _ = trained(replace(SMALL, replay_start=10_000), 2)
    assert agent.opponent.perturbation.uniform
    assert agent.experience.opponent_perturbation(Perturbation()).uniform
    assert not trained(SMALL, 2)[0].opponent.perturbation.uniform


def test_frozen_opponent_becomes_the_player_only_when_beaten():
    agent, _ = trained(replace(TOKENS, self_play="frozen"), 3)
    player, rival = agent.players.networks
    rival.load_state_dict(replace_first(rival.state_dict()))
    before = weights(rival)
    runs = type("Runs", (), {})
    for mine in (1.0, 2.0):  # a tie is no victory
        runs.scores = {"agent": mine, "opponent": 2.0}
        agent.players.update_frozen_opponent(runs)
        assert np.array_equal(weights(rival), before)
    runs.scores = {"agent": 3.0, "opponent": 2.0}
    agent.players.update_frozen_opponent(runs)
    assert np.array_equal(weights(rival), weights(player))


def replace_first(state):
    return {name: tensor + 0.1 for name, tensor in state.items()}


def test_learning_opponent_learns_a_policy_of_its_own():
    settings = replace(TOKENS, self_play="learning", gradient="sampled", critic="state-value")
    agent, _ = trained(settings, 4)
    player, rival = agent.players.networks
    assert agent.memory.tokens(player=1) > 0
    assert agent.memory.capacity == 2 * settings.replay_capacity  # so much for each
    assert agent.memory.learners == 2
    fresh = MaskingActorCritic(
        ToyMasking(), settings, token_features=TypeStates(), seed=1, device="cpu"
    )
    assert not np.array_equal(weights(rival), weights(fresh.players.networks[1]))
    assert not np.array_equal(weights(rival), weights(player))


@pytest.mark.parametrize("envs", [1, 2])
def test_replay_has_the_probabilities_that_a_learning_opponent_drew_with(monkeypatch, envs):
    drawn, stored = [], []
    draw, remember = self_play.draw, Experience.remember

    def drawing(scores_BL, contexts, noise_BL):
        drawn.append(token_log_probs(scores_BL, torch.as_tensor(contexts.maskable)).numpy())
        return draw(scores_BL, contexts, noise_BL)

    def remembering(self, player, network, contexts, runs, log_probs_BL):
        if player == RIVAL:
            stored.append(log_probs_BL)
        remember(self, player, network, contexts, runs, log_probs_BL)

    monkeypatch.setattr(self_play, "draw", drawing)
    monkeypatch.setattr(Experience, "remember", remembering)
    settings = replace(SMALL, self_play="learning", gradient="sampled")
    env = DummyVecEnv([ToyMasking] * envs)  # their episodes end together
    agent = MaskingActorCritic(env, settings, token_features=TypeStates(), seed=1, device="cpu")
    agent.attach_opponent()
    agent.learn(4 * CONTEXTS)
    assert len(drawn) == len(stored) == 4
    assert all(np.array_equal(a, b) for a, b in zip(drawn, stored, strict=True))


def test_an_environment_without_references_is_refused_in_one_sentence():
    env = ToyMasking()
    env.references = None
    agent = MaskingActorCritic(env, SMALL, token_features=TypeStates(), device="cpu")
    with pytest.raises(ValueError, match="self_play='none'"):
        agent.attach_opponent()
