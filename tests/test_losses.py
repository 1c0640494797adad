"""What is minimised, in numbers: each term, its gradient and its optimum, against plain NumPy."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from masking_toy import TYPES, ToyMasking, TypeStates
from torch import nn

from agents.actor_critic import MaskingActorCritic
from agents.contexts import Contexts
from agents.episode import Runs, masked_sums
from agents.losses import masking_losses, sampled_gain
from agents.replay_buffer import ReplayBatch
from agents.settings import AgentSettings

DEFAULT = AgentSettings()
RATIO = np.array([3.0, 3.0, 0.2, 0.2, 1.2])
ADVANTAGE = np.array([2.0, -2.0, 2.0, -2.0, 1.0])
LOG_PROB = np.log([0.6, 0.3, 0.1, 0.05, 0.5])


@pytest.mark.parametrize(
    ("importance", "gain", "slope"),
    [
        ("none", LOG_PROB * ADVANTAGE, ADVANTAGE),
        ("truncated", np.array([3, -3, 0.4, -0.4, 1.2]) * LOG_PROB, [3, -3, 0.4, -0.4, 1.2]),
        # PPO: no reason to go further than the trust region, every reason to come back into it
        ("clipped", [3, -6, 0.4, -1, 1.2], [0, -6, 0.4, 0, 1.2]),
    ],
)
def test_gain_of_replayed_tokens_and_its_gradient(importance, gain, slope):
    log_prob = torch.tensor(LOG_PROB, requires_grad=True)
    behaviour = torch.tensor(LOG_PROB - np.log(RATIO))
    settings = replace(DEFAULT, importance=importance, importance_limit=1.5)
    found = sampled_gain(log_prob, behaviour, torch.tensor(ADVANTAGE), settings)
    assert np.allclose(found.detach(), gain)
    assert np.allclose(torch.autograd.grad(found.sum(), log_prob)[0], slope)


MASKABLE = np.array([[1, 1, 0], [1, 1, 1]], dtype=bool)
PHI = np.array([[[1.0, 0.5], [-0.5, 1.0], [4.0, 4.0]], [[2.0, 2.0], [0.2, -1.0], [0.1, 0.4]]])
WEIGHTS, VALUES = np.array([1.0, 0.5]), np.array([0.3, -0.2])
SCORES = np.array([[0.4, -0.3, 2.0], [0.1, 0.9, -1.0]])
ROWS, MASKED = np.arange(2), np.array([1, 0])
CONTEXTS_BL = Contexts(
    np.array([[5, 6, 1], [7, 8, 9]]), MASKABLE | True, MASKABLE * 0, MASKABLE, ROWS, ROWS
)
BATCH = ReplayBatch(
    CONTEXTS_BL,
    positions=MASKED,
    log_probs=np.log([0.05, 0.7]),
    credits=np.array([1.0, -0.5]),
)


class Fixed(nn.Module):
    """Scores and state values that are parameters themselves."""

    def __init__(self, scores_BL):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores_BL))
        self.values = nn.Parameter(torch.tensor(VALUES))

    def forward(self, phi_BLD, input_ids_BL, real_BL):
        return self.scores

    def state_value(self, phi_BLD, real_BL):
        return self.values


def terms_and_slopes(settings, scores_BL=SCORES):
    """Value of each term, its gradient by the scores and that by the state values."""
    network = Fixed(scores_BL)
    weights_D = torch.tensor(WEIGHTS)
    terms, _ = masking_losses(network, lambda _: torch.tensor(PHI), BATCH, weights_D, settings)
    found = {}
    for name, term in terms.items():
        network.zero_grad()
        term.backward(retain_graph=True)
        slopes = [p.grad if p.grad is not None else 0 * p for p in network.parameters()]
        found[name] = (term.item(), *(s.detach().numpy().copy() for s in slopes))
    return found


def softmax(scores_BL):
    weight_BL = np.exp(scores_BL) * MASKABLE
    return weight_BL / weight_BL.sum(axis=1, keepdims=True)


def check(found, value, by_scores, by_values=(0, 0)):
    for mine, expected in zip(found, (value, by_scores, by_values), strict=True):
        assert np.allclose(mine, expected)


PI = softmax(SCORES)
LOG_PI = np.log(np.where(MASKABLE, PI, 1.0))
Q = np.minimum(PHI @ WEIGHTS, 1.3) * MASKABLE  # one token is worth 3 and counts as 1.3
EXPECTED = (PI * Q).sum(axis=1)


def test_expected_objective_of_a_batch():
    found = terms_and_slopes(DEFAULT)
    assert found.keys() == {"policy", "entropy"}
    check(found["policy"], -EXPECTED.mean(), -PI * (Q - EXPECTED[:, None]) / 2)
    entropy = -(PI * LOG_PI).sum(axis=1)
    slope = PI * (LOG_PI + entropy[:, None]) / 2
    check(found["entropy"], -0.25 * entropy.mean(), 0.25 * slope)


@pytest.mark.parametrize("critic", ["decomposed", "state-value"])
def test_sampled_objective_of_a_batch(critic):
    settings = replace(DEFAULT, gradient="sampled", critic=critic, value_weight=0.6)
    found = terms_and_slopes(settings)
    error = BATCH.credits - VALUES
    advantage = error if critic == "state-value" else Q[ROWS, MASKED] - EXPECTED
    ratio = PI[ROWS, MASKED] / np.exp(BATCH.log_probs)
    assert ratio[0] > 2 > ratio[1]
    weight = np.minimum(ratio, 2) * advantage / 2
    check(
        found["policy"],
        -(weight * LOG_PI[ROWS, MASKED]).sum(),
        -weight[:, None] * (np.eye(3)[MASKED] - PI),  # and nothing by the state values
    )
    if critic == "state-value":
        check(found["value"], 0.6 * np.square(error).mean(), 0, -0.6 * error)


def test_optimum_is_the_value_up_to_its_limit_over_the_entropy_weight():
    for scores, flat in ((Q / 0.25, True), (1.1 * Q / 0.25, False)):
        slopes = terms_and_slopes(DEFAULT, scores).values()
        assert np.allclose(sum(by_scores for _, by_scores, _ in slopes), 0) == flat


def untrained(**changes):
    settings = replace(DEFAULT, inputs=("embeddings",), **changes)
    agent = MaskingActorCritic(
        ToyMasking(), settings, token_features=TypeStates(), seed=0, device="cpu"
    )
    env = ToyMasking()
    env.reset(seed=1)
    return agent, Contexts.of(env.observe_episode())


def two_runs(contexts):
    masks = {"agent": contexts.maskable, "random": contexts.maskable & False}
    return Runs(masks, {"agent": 1.0, "random": 0.0})


def test_token_values_are_in_standard_deviations_over_tokens():
    agent, contexts = untrained()
    agent.experience.learn(contexts, two_runs(contexts))
    value_BL = agent.features(contexts) @ agent.experience.value_weights(agent.device)
    assert np.isclose(value_BL.numpy()[contexts.maskable].std(), 1)


def test_a_word_masked_n_times_counts_n_to_the_power_of_what_diminishing_leaves():
    class OneHot:
        size = 10

        def __call__(self, contexts):
            return torch.eye(self.size)[torch.as_tensor(contexts.input_ids)]

    words = replace(CONTEXTS_BL, input_ids=np.array([[7, 7, 8], [7, 7, 9]]))
    mask = np.array([[1, 1, 1], [1, 1, 0]], dtype=bool)
    for diminishing, sevens in ((0.0, 4.0), (0.5, 2.0), (1.0, 1.0)):
        sums_RD = masked_sums(OneHot(), words, mask[None], diminishing)
        assert sums_RD[0, 7:].tolist() == [sevens, 1.0, 0.0]
    agent, contexts = untrained(diminishing=0.5)
    agent.experience.learn(contexts, two_runs(contexts))
    seen = []
    agent.experience.critic = SimpleNamespace(observe=lambda *given: seen.append(given))
    agent.experience.learn(contexts, two_runs(contexts))
    phi, ids = agent.features(contexts).numpy()[contexts.maskable], contexts.input_ids
    _, first, times = np.unique(ids[contexts.maskable], return_index=True, return_counts=True)
    sums = (np.sqrt(times)[:, None] * phi[first]).sum(axis=0)
    assert np.allclose(seen[0][0], [sums, 0 * sums], atol=1e-3)


def test_tokens_of_every_episode_are_counted():
    agent, contexts = untrained()
    for times in (1, 2):
        agent.experience.learn(contexts, two_runs(contexts))
        counts = np.bincount(contexts.input_ids[contexts.attention_mask], minlength=TYPES)
        assert np.array_equal(agent.features.frequency, times * counts)


def test_gradients_are_scaled_down_to_their_limit():
    agent, _ = untrained(max_grad_norm=0.5)
    parameters = list(agent.policy.parameters())
    for factor, expected in ((1e3, 0.5), (1e-4, None)):
        agent.players.step(0, factor * sum(p.sum() for p in parameters))
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        count = sum(p.numel() for p in parameters)
        assert np.isclose(norm, expected or factor * np.sqrt(count), rtol=1e-4)
