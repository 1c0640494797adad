"""The agent on an environment with a known answer; its files; its promises to its users."""

import itertools
import json
import random
import warnings
from concurrent.futures import Future
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from masking_toy import CONTEXTS, TYPES, RandomMasks, ToyMasking, TypeStates, learned_share
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from stub_world import FailingExecutor, StubExecutor, StubWorld

from agents.actor_critic import MaskingActorCritic
from agents.budgeted import token_log_probs
from agents.contexts import Contexts
from agents.critic import POWERS, PRIOR_COUNT, STRENGTHS, TokenValueCritic
from agents.features import STATISTICS
from agents.policy import state_values
from agents.self_play import perturbed_scores
from agents.settings import AgentSettings
from envs.masking_env import MaskingEnv

BEST = 0.9
"""Share of worthy tokens of the best mask on the toy's new episodes (some contexts lack two)."""
CHANCE = 20 / 56
DEFAULT = AgentSettings()
QUICK = replace(DEFAULT, updates=3)
PAPER = replace(AgentSettings.PAPER, inputs=("embeddings",), replay_start=300, updates=3)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(settings=DEFAULT, seed=0, states=None, env=None, **toy):
    agent = MaskingActorCritic(
        env or ToyMasking(**toy),
        settings,
        token_features=states or TypeStates(separation=3.0),
        seed=seed,
        device="cpu",
    )
    agent.attach_opponent()
    return agent


def play(agent, episodes):
    return agent.learn(episodes * CONTEXTS, reset_num_timesteps=False)


def everything(agent):
    """All numbers that an agent consists of, by name."""
    arrays, rest = agent.memory.state()
    for number, network in enumerate(agent.players.networks):
        arrays |= {f"network{number}.{k}": v.numpy() for k, v in network.state_dict().items()}
    for number, optimizer in enumerate(agent.players.optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer{number}.{index}.{k}": v.numpy() for k, v in values.items()}
    arrays |= {f"features.{k}": v for k, v in agent.features.state().items()}
    if agent.experience.critic is not None:
        arrays |= {f"critic.{k}": v for k, v in agent.experience.critic.state().items()}
    counters = (agent.num_timesteps, agent._n_updates, agent._episode_num, rest["rng"])
    return arrays, counters


def same(one, other):
    (mine, my_counters), (theirs, their_counters) = everything(one), everything(other)
    assert mine.keys() == theirs.keys()
    equal = [
        mine[k].shape == theirs[k].shape and mine[k].tobytes() == theirs[k].tobytes() for k in mine
    ]
    return all(equal) and my_counters == their_counters


# Learning


@pytest.mark.parametrize("seed", [0, 1])
def test_default_agent_reaches_nine_tenths_of_the_best_in_25_episodes(seed):
    agent = play(make(seed=seed), 25)
    assert learned_share(agent) >= 0.9 * BEST


def test_default_agent_learns_nothing_from_a_permuted_reward():
    shares = [learned_share(play(make(QUICK, seed, permute=True), 25)) for seed in range(2)]
    assert np.mean(shares) < CHANCE + 0.15


def test_paper_agent_improves_on_chance_without_noise():
    settings = replace(PAPER, updates=10)
    agent = make(settings, noise=0.0)
    before = learned_share(agent)
    play(agent, 25)
    assert learned_share(agent) > max(before, CHANCE) + 0.15


def test_agent_learns_a_table_of_tokens_where_no_states_are_given():
    agent = MaskingActorCritic(ToyMasking(noise=0.02), DEFAULT, seed=0, device="cpu")
    agent.attach_opponent()
    assert agent.policy.network.table.num_embeddings == TYPES
    assert learned_share(play(agent, 25)) > CHANCE + 0.2


def test_inputs_are_what_was_asked_for_where_no_states_are_given():
    agent = MaskingActorCritic(ToyMasking(), replace(QUICK, inputs=("statistics",)), seed=0)
    agent.attach_opponent()
    assert play(agent, 2).features.size == STATISTICS
    assert agent.policy.network.table is None
    with pytest.raises(ValueError, match="give token_features"):
        MaskingActorCritic(ToyMasking(), replace(QUICK, inputs=("states",)), seed=0)


def test_critic_recovers_token_values_and_knows_their_uncertainty():
    rng = np.random.default_rng(0)
    true = np.array([1.0, -2.0, 0.0, 0.5, 0.0, 0.0])
    critic = TokenValueCritic(np.ones(6), np.zeros(6, dtype=int), np.eye(6))
    errors = []
    for episodes in (5, 200):
        for _ in range(episodes):
            masked_RD = rng.standard_normal((3, 6)) * 10
            level = 5 * rng.standard_normal()  # of the episode's data: the same for all its runs
            scores = level + masked_RD @ true / 10 + 0.3 * rng.standard_normal(3)
            critic.observe(masked_RD, np.full(3, 10), scores)
        draws = np.stack([critic.sample(rng) for _ in range(200)])
        assert np.allclose(draws.mean(0), critic.mean(), atol=0.3)
        errors.append((np.abs(critic.mean() - true).max(), draws.std(0).mean()))
    assert errors[1][0] < 0.1
    assert errors[1][1] < 0.5 * errors[0][1]
    assert abs(critic.summary()["noise"] - 0.3) < 0.05


def test_critic_s_mean_is_over_all_hypotheses():
    """Each by its marginal likelihood: a multivariate t, its covariance over runs written out."""
    rng = np.random.default_rng(2)
    share = np.array([1.0, 0.5, 0.1])
    critic = TokenValueCritic(share, np.array([0, 0, 1]), np.eye(3))
    rows, scores = [], []
    for _ in range(4):
        masked_RD, count_R = rng.standard_normal((3, 3)), rng.integers(1, 4, 3)
        score_R = rng.standard_normal(3)
        critic.observe(masked_RD, count_R, score_R)
        x_RP = np.column_stack([masked_RD, count_R]) / count_R.max()
        rows.append(x_RP - x_RP.mean(axis=0))
        scores.append(score_R - score_R.mean())
    x_NP, y_N = np.concatenate(rows), np.concatenate(scores)
    free = 4 * (3 - 1)
    means, evidence = [], []
    for used, powers in (([0, 1], POWERS), ([2], (0.0,)), ([0, 1, 2], POWERS)):
        for power, strength in itertools.product(powers, STRENGTHS):
            scale = share[used] ** (power / 2)
            scale = np.append(scale / np.linalg.norm(scale), 1.0)
            z_NU = x_NP[:, [*used, 3]] * scale
            covariance_NN = np.eye(len(y_N)) + strength * z_NU @ z_NU.T
            solved_N = np.linalg.solve(covariance_NN, y_N)
            rate = (PRIOR_COUNT * y_N @ y_N / free + y_N @ solved_N) / 2
            log_determinant = np.linalg.slogdet(covariance_NN)[1]
            evidence.append(-log_determinant / 2 - (PRIOR_COUNT + free / 2) * np.log(rate))
            means.append(np.zeros(4))
            means[-1][[*used, 3]] = strength * scale * (z_NU.T @ solved_N)
    weights = np.exp(np.array(evidence) - max(evidence))
    assert np.allclose(critic.mean(), (weights / weights.sum() @ means)[:3], rtol=1e-9)


def test_critic_of_single_runs_is_the_regression_with_one_intercept():
    rng = np.random.default_rng(1)
    critic = TokenValueCritic(np.ones(3), np.zeros(3, dtype=int), np.eye(3))
    rows, scores = rng.standard_normal((30, 3)), rng.standard_normal(30)
    for row, score in zip(rows, scores, strict=True):
        critic.observe(10 * row[None], np.array([10]), np.array([score]))
    centred = rows - rows.mean(0)
    assert np.allclose(critic.gram_PP[:3, :3], centred.T @ centred)
    assert np.allclose(critic.cross_P[:3], centred.T @ (scores - scores.mean()))
    assert critic.rows == 29


# Every ablation runs, and masks as it should (the environment checks each mask)

ABLATIONS = {
    "sign": {"reward": "sign"},
    "last layer": {"inputs": ("states",)},
    "embeddings": {"inputs": ("embeddings",)},
    "token exploration": {"exploration": "tokens", "self_play": "random"},
    "state value": {"critic": "state-value", "gradient": "sampled"},
    "sampled": {"gradient": "sampled", "importance": "clipped"},
    "no importance": {"gradient": "sampled", "importance": "none", "replay_priority": True},
    "no opponent": {"self_play": "none"},
    "frozen": {"self_play": "frozen"},
    "learning": {"self_play": "learning"},
    "few components": {"components": 2},
}


@pytest.mark.parametrize("change", ABLATIONS.values(), ids=ABLATIONS.keys())
def test_every_ablation_runs(change):
    states = TypeStates()
    states.embedding_width = 6
    agent = play(make(replace(QUICK, **change), states=states), 3)
    assert np.isfinite(list(agent.last_metrics.values())).all()
    assert agent._n_updates > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"critic": "state-value"}, "gradient='sampled'"),
        ({"exploration": "tokens"}, "antithetic"),
        ({"inputs": ("words",)}, "inputs"),
        ({"batch": 0}, "batch"),
        ({"gradient": "sampled", "entropy": 0.0}, "entropy 0.0; both must be positive"),
        ({"self_play": "frozn"}, "self_play is 'frozn'; it must be one of .*frozen"),
        ({"components": 0}, "components"),
        ({"replay_capacity": 60, "replay_start": 2000}, "60 and replay_start 2000.*never"),
        ({"importance": "clipped", "importance_limit": 0.5}, "0.5; .* must be above 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(DEFAULT, **change)


def test_an_unknown_metric_is_refused_with_those_there_are():
    agent = make(replace(QUICK, metric="bleu"))
    with pytest.raises(ValueError, match="accuracy, nll"):
        play(agent, 1)


# Same numbers


@pytest.mark.parametrize("settings", [QUICK, PAPER], ids=["default", "paper"])
def test_same_seed_same_agent_other_seed_another(settings):
    agents = [play(make(settings, seed), 7) for seed in (3, 3, 4)]
    assert same(agents[0], agents[1])
    assert not same(agents[0], agents[2])


def test_masking_in_one_batch_and_step_by_step_is_the_same():
    batch, steps = play(make(QUICK), 4), play(make(QUICK, batched=False), 4)
    assert np.array_equal(
        batch.memory.state()[0]["plays.masks"], steps.memory.state()[0]["plays.masks"]
    )


def test_perturbation_is_shared_by_the_masks_of_an_episode():
    class Watch(BaseCallback):
        def _on_step(self):
            played.append(self.model.opponent.perturbation.reversed())  # the player's
            return True

    played = []
    settings = replace(QUICK, inputs=("embeddings",), learning_rate=0.0)
    agent = make(settings, batched=False)
    agent.learn(4 * CONTEXTS, callback=Watch())
    batch = agent.memory.sample_tokens(500)
    episode_N = batch.contexts.context_ids // CONTEXTS
    for number in (1, 2, 3):
        here = np.flatnonzero(episode_N == number)
        contexts, perturbation = batch.contexts.rows(here), played[number * CONTEXTS]
        scores = perturbed_scores(agent.policy.network, agent.features, contexts, perturbation)
        log_probs = token_log_probs(scores, torch.as_tensor(contexts.maskable)).numpy()
        drawn_with = log_probs[np.arange(len(here)), batch.positions[here]]
        np.testing.assert_allclose(drawn_with, batch.log_probs[here], atol=1e-5)
    assert len({tuple(played[number * CONTEXTS].direction) for number in (1, 2, 3)}) == 3


class StopAt(BaseCallback):
    def __init__(self, calls, action=lambda agent: None):
        super().__init__()
        self.stop, self.action = calls, action

    def _on_step(self):
        if self.n_calls == self.stop:
            self.action(self.model)
        return self.n_calls != self.stop


@pytest.mark.parametrize("settings", [QUICK, PAPER], ids=["default", "paper"])
@pytest.mark.parametrize("step", [6 * CONTEXTS, 6 * CONTEXTS + 7])
def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path, settings, step):
    whole = play(make(settings), 10)
    first = make(settings)
    if step % CONTEXTS == 0:
        play(first, 6).save_state(tmp_path)
    else:  # killed in the middle of an episode
        callback = StopAt(step, lambda agent: agent.save_state(tmp_path))
        first.learn(10 * CONTEXTS, callback=callback)
    second = make(settings)
    second.load_state(tmp_path)
    assert second.num_timesteps == 6 * CONTEXTS
    play(second, 4)
    assert same(whole, second)


def test_a_run_without_a_seed_goes_on_with_the_one_it_drew(tmp_path):
    make(QUICK, seed=None).save_state(tmp_path)
    first, second = make(QUICK, seed=None), make(QUICK, seed=None)
    for agent in (first, second):
        agent.load_state(tmp_path)
        play(agent, 1)
    assert same(first, second)


def test_an_episode_saved_before_its_updates_gets_them_on_resume(tmp_path):
    class SaveAtEnd(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            if self.num_timesteps == 3 * CONTEXTS:
                self.model.save_state(tmp_path)

    whole = make(QUICK).learn(5 * CONTEXTS, callback=SaveAtEnd())
    second = make(QUICK)
    second.load_state(tmp_path)
    assert same(whole, play(second, 2))


@pytest.mark.parametrize("step", [CONTEXTS + 3, 2 * CONTEXTS])
def test_an_agent_that_a_callback_stopped_goes_on_as_if_it_had_not(step):
    stopped = make(QUICK)
    stopped.learn(4 * CONTEXTS, callback=StopAt(step))
    assert stopped.experience.critic.rows == 2 * (step // CONTEXTS)  # what was finished is learned
    play(stopped, 4 - step // CONTEXTS)
    assert same(stopped, play(make(QUICK), 4))


class Tokenizer:
    pad_token_id = 0

    def __len__(self):
        return TYPES


def stubbed(executor=None):
    return MaskingEnv(StubWorld(Tokenizer()), executor or StubExecutor(), budget=0.2)


class LosingExecutor(StubExecutor):
    """Takes every job, and has no score for one of them."""

    def __init__(self, lost):
        super().__init__()
        self.lost = lost

    def submit(self, job):
        future = super().submit(job)
        if len(self.jobs) == self.lost:
            future = Future()
            future.set_exception(OSError("the job died"))
        return future


class Raise(BaseCallback):
    """An error in a callback: the environments have taken the step."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        if self.n_calls == self.at:
            raise OSError("disk full")
        return True


BROKEN_OFF = {  # three jobs an episode, of four contexts
    "first job refused": lambda: (FailingExecutor(6), None),
    "agent's job refused": lambda: (FailingExecutor(8), None),
    "score lost": lambda: (LosingExecutor(9), None),
    "callback": lambda: (StubExecutor(), Raise(10)),
    "callback at the end": lambda: (StubExecutor(), Raise(12)),
}


@pytest.mark.parametrize("breaking", BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
def test_an_agent_whose_step_failed_goes_on_as_if_it_had_not(tmp_path, breaking):
    executor, callback = breaking()
    whole = make(QUICK, env=stubbed()).learn(20)
    agent, again = make(QUICK, env=stubbed(executor)), make(QUICK, env=stubbed())
    with pytest.raises(OSError, match=r"."):
        agent.learn(20, callback=callback)
    assert agent.num_timesteps == 8
    agent.save_state(tmp_path)
    again.load_state(tmp_path)
    for one in (agent, again):
        assert same(one.learn(12, reset_num_timesteps=False), whole)


def test_what_was_dealt_and_not_played_does_not_disturb_a_resume(tmp_path):
    whole, first = make(QUICK), make(QUICK)
    for agent in (whole, first):
        for _ in range(2):  # each begins with a reset, which deals anew
            agent.learn(2 * CONTEXTS)
    first.save_state(tmp_path)
    second = make(QUICK)
    second.load_state(tmp_path)
    assert same(play(whole, 2), play(second, 2))


def test_weights_that_an_environment_starts_from_are_asked_for_again(tmp_path):
    class Drifting(ToyMasking):
        weights = "base"

        def reset(self, *, seed=None, options=None):
            self.weights = (options or {}).get("weights", "base" if seed else self.weights)
            return super().reset(seed=seed, options=options)

    agent = play(make(QUICK, env=Drifting()), 1)
    agent.env.envs[0].unwrapped.weights = "drifted"
    agent.save_state(tmp_path)
    again = make(QUICK, env=Drifting())
    again.load_state(tmp_path)
    again.env.reset()
    assert again.env.get_attr("weights") == ["drifted"]


def test_the_users_generators_are_left_alone():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()
        results.append(play(make(QUICK), 2))
        after = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
    assert same(*results)


def test_an_episode_that_was_cut_short_teaches_nothing():
    agent = make(QUICK, env=TimeLimit(ToyMasking(), CONTEXTS - 1))
    with pytest.warns(UserWarning, match="cut short"):
        agent.learn(2 * CONTEXTS)
    assert agent.experience.critic is None
    assert not agent.memory.tokens()


def test_a_replay_too_small_for_its_start_is_said_once():
    agent = make(replace(QUICK, replay_start=1000, replay_contexts=CONTEXTS))  # room for two
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        play(agent, 2)
        assert not said
        play(agent, 3)
    assert len(said) == 1
    assert "replay_start is 1000" in str(said[0].message)


def test_an_opponent_of_somebody_else_is_nothing_to_learn_a_second_policy_from():
    env = ToyMasking(references={"random": RandomMasks(), "opponent": RandomMasks(1)})
    agent = MaskingActorCritic(env, PAPER, token_features=TypeStates(), seed=0, device="cpu")
    with pytest.warns(UserWarning, match="attach_opponent"):
        agent.learn(2 * CONTEXTS)
    assert agent.memory.tokens(0)
    assert not agent.memory.tokens(1)


def test_self_play_without_an_opponent_is_said():
    env = ToyMasking()
    agent = MaskingActorCritic(env, QUICK, token_features=TypeStates(), seed=0, device="cpu")
    with pytest.warns(UserWarning, match="attach_opponent"):
        agent.learn(CONTEXTS)


# Files


def test_saved_files_hold_no_code_and_the_loaded_agent_masks_alike(tmp_path):
    agent = play(make(QUICK), 3)
    agent.save_state(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text())
    for path in tmp_path.glob("*.safetensors"):
        header = int.from_bytes(path.read_bytes()[:8], "little")
        json.loads(path.read_bytes()[8 : 8 + header])
    loaded = MaskingActorCritic.load(tmp_path, token_features=TypeStates(separation=3.0))
    assert learned_share(loaded) == learned_share(agent)
    again = MaskingActorCritic.load(tmp_path, ToyMasking(), TypeStates(separation=3.0))
    again.attach_opponent()
    play(again, 1)


@pytest.mark.parametrize("environment", [ToyMasking, stubbed])
def test_an_agent_loaded_without_an_environment_takes_one_later(tmp_path, environment):
    make(QUICK, env=environment()).save(tmp_path)
    agent = MaskingActorCritic.load(tmp_path, token_features=TypeStates(separation=3.0))
    agent.set_env(environment())
    agent.attach_opponent()
    agent.learn(CONTEXTS)
    other = stubbed() if environment is ToyMasking else ToyMasking()
    with pytest.raises(ValueError, match="spaces do not match"):
        MaskingActorCritic.load(tmp_path, token_features=TypeStates()).set_env(other)


class Dealing(ToyMasking):
    """Remembers which episodes it dealt."""

    def reset(self, **options):
        result = super().reset(**options)
        self.dealt = [*getattr(self, "dealt", []), self.episode_index]
        return result


def test_a_loaded_agent_does_not_learn_from_the_same_episodes_again(tmp_path):
    two = make(QUICK, env=DummyVecEnv([ToyMasking, ToyMasking]))
    two.learn(4 * CONTEXTS).save(tmp_path / "once")
    for number, folder in ((2, "once"), (4, "twice")):
        states, vector = TypeStates(separation=3.0), DummyVecEnv([Dealing] * 3)
        agent = MaskingActorCritic.load(tmp_path / folder, vector, states)
        agent.attach_opponent()
        agent.learn(6 * CONTEXTS)
        assert [env.dealt[0] for env in vector.envs] == [number, number, number - 2]
        again = MaskingActorCritic.load(tmp_path / "once", token_features=states)
        again.save(tmp_path / "copy")  # loaded to act, it has no environment to ask
        agent.save(tmp_path / "twice")
    agent = MaskingActorCritic.load(tmp_path / "copy", Dealing(), states)
    agent.attach_opponent()
    assert agent.learn(CONTEXTS).env.get_attr("dealt")[0][0] == 2


def test_an_agent_of_numpy_s_numbers_is_saved(tmp_path):
    settings = replace(QUICK, components=np.int64(8), entropy=np.float32(0.5))
    play(make(settings, seed=np.int64(3)), 1).save_state(tmp_path)
    again = MaskingActorCritic.load(tmp_path, token_features=TypeStates(separation=3.0))
    assert (again.settings, again.seed) == (replace(QUICK, components=8, entropy=0.5), 3)


def test_loading_never_unpickles(tmp_path, monkeypatch):
    play(make(QUICK), 2).save_state(tmp_path)

    def forbidden(*args, **kwargs):
        raise AssertionError("unpickled")

    for target in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(target, forbidden)
    agent = MaskingActorCritic.load(tmp_path, token_features=TypeStates(separation=3.0))
    make(QUICK).load_state(tmp_path)
    pickles = tmp_path / "inherited"
    for action, instead in (
        (agent.save_replay_buffer, "save_state"),
        (agent.load_replay_buffer, "load_state"),
        (agent.policy.save, "agent.save"),
        (agent.policy.load, "MaskingActorCritic.load"),
    ):
        with pytest.raises(NotImplementedError, match=instead):
            action(pickles)
    assert not pickles.exists()


def test_bad_folders_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"agent\.json"):
        MaskingActorCritic.load(tmp_path)
    agent = play(make(QUICK), 2)
    agent.save_state(tmp_path)
    with pytest.raises(ValueError, match="token_features"):
        MaskingActorCritic.load(tmp_path)
    with pytest.raises(ValueError, match="language model"):
        MaskingActorCritic.load(tmp_path, token_features=TypeStates(width=9))
    other = ToyMasking()
    other.observation_space["input_ids"].high[:] = 99
    with pytest.raises(ValueError, match="vocabulary of 60"):
        MaskingActorCritic.load(tmp_path, other, TypeStates())
    with pytest.raises(ValueError, match="updates"):
        make(DEFAULT).load_state(tmp_path)
    with pytest.raises(ValueError, match="seed"):
        make(QUICK, seed=5).load_state(tmp_path)
    about = json.loads((tmp_path / "agent.json").read_text())
    (tmp_path / "agent.json").write_text(json.dumps({**about, "length": 20}))
    with pytest.raises(ValueError, match="contexts of 20 tokens, the environment has 12"):
        make(QUICK).load_state(tmp_path)
    (tmp_path / "policy.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="safetensors"):
        MaskingActorCritic.load(tmp_path, token_features=TypeStates(separation=3.0))


def test_draws_go_on_where_they_were_saved(tmp_path):
    agent, env = play(make(QUICK), 2), ToyMasking()
    env.reset(seed=1)
    many = env.observe_episode()
    for policy in (agent, agent.opponent):
        policy.predict(many)
    agent.save_state(tmp_path)
    again = make(QUICK)
    again.load_state(tmp_path)
    again.opponent.begin(agent.opponent.perturbation)
    for one, other in ((agent, again), (agent.opponent, again.opponent)):
        assert (one.predict(many)[0] == other.predict(many)[0]).all()


@pytest.mark.parametrize(
    "changed",
    [
        *({name: None} for name in ("settings", "states", "length", "vocab_size", "seed")),
        {"settings": []},
        {"settings": asdict(QUICK) | {"foo": 1}},
        {"settings": asdict(QUICK) | {"width": 16}},
        {"settings": asdict(QUICK) | {"updates": 0}},
        {"settings": asdict(QUICK) | {"head_width": "wide"}},
        {"length": "long"},
    ],
)
def test_a_damaged_description_is_told_in_one_sentence(tmp_path, changed):
    make(QUICK).save(tmp_path)
    path = tmp_path / "agent.json"
    about = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({n: value for n, value in about.items() if value is not None}))
    with pytest.raises(ValueError, match="damaged") as caught:
        MaskingActorCritic.load(tmp_path, token_features=TypeStates(separation=3.0))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", [{"replay": None}, {"replay": {}}, {"counters": []}])
def test_a_damaged_state_is_told_in_one_sentence(tmp_path, changed):
    make(QUICK).save_state(tmp_path)
    path = tmp_path / "state.json"
    state = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({n: value for n, value in state.items() if value is not None}))
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        make(QUICK).load_state(tmp_path)


def test_a_state_of_more_environments_is_refused_before_anything_is_read_from_it(tmp_path):
    two = make(QUICK, env=DummyVecEnv([ToyMasking, ToyMasking]))
    two.learn(2 * CONTEXTS).save_state(tmp_path)
    agent = play(make(QUICK), 1)
    with pytest.raises(ValueError, match="of 2 environments, the agent has 1"):
        agent.load_state(tmp_path)
    assert same(agent, play(make(QUICK), 1))


# As users use it


def test_predict_answers_one_context_and_many():
    agent = play(make(QUICK), 2)
    env = ToyMasking()
    env.reset(seed=1)
    many = env.observe_episode()
    masks, state = agent.predict(many, deterministic=True)
    assert state is None
    assert masks.shape == many["input_ids"].shape
    assert masks.dtype == np.int8
    one = {name: values[4] for name, values in many.items()}
    assert (agent.predict(one, deterministic=True)[0] == masks[4]).all()
    draws = [agent.predict(one)[0] for _ in range(20)]
    assert len({tuple(draw) for draw in draws}) > 1
    agent.policy.seed(7)
    first = agent.predict(many)[0]
    agent.policy.seed(7)
    assert (agent.predict(many)[0] == first).all()


def test_several_environments_at_once():
    agent = make(QUICK, env=DummyVecEnv([ToyMasking, ToyMasking]))
    agent.learn(4 * CONTEXTS)
    assert agent.players.opponents[0] is not agent.players.opponents[1]
    assert agent._n_updates == 4 * 3  # three for each episode
    assert agent.experience.critic.rows == 4 * 2
    one, other = (opponent.perturbation.direction for opponent in agent.players.opponents)
    assert not np.allclose(one, other)  # each environment has draws of its own


def test_losses_can_be_overridden():
    class Lazy(MaskingActorCritic):
        def losses(self, batch):
            terms, surprise = super().losses(batch)
            assert isinstance(batch.contexts, Contexts)
            return {"policy": 0.0 * terms["policy"]}, surprise

    agent = Lazy(ToyMasking(), QUICK, token_features=TypeStates(), seed=0, device="cpu")
    agent.attach_opponent()
    start = [p.clone() for p in agent.policy.parameters()]
    play(agent, 3)
    assert all(torch.equal(a, b) for a, b in zip(start, agent.policy.parameters(), strict=True))


def test_an_environment_that_gives_only_a_reward_is_learned_from():
    class Bare(ToyMasking):
        def step(self, action):
            observation, reward, ended, cut, _ = super().step(action)
            return observation, reward / 100, ended, cut, {}

    agent = make(replace(DEFAULT, self_play="none"), env=Bare(noise=0.0))
    assert learned_share(play(agent, 30)) > CHANCE + 0.15


@pytest.mark.parametrize("settings", [QUICK, PAPER], ids=["default", "paper"])
def test_nothing_is_learned_by_what_gives_the_states(settings):
    class Trainable(TypeStates):
        def __init__(self):
            super().__init__(separation=3.0)
            self.table = torch.tensor(self.table, requires_grad=True)

        def __call__(self, input_ids_BL, attention_mask_BL, context_ids_B):
            return self.table[torch.as_tensor(input_ids_BL).long()]

    agent = play(make(settings, states=Trainable()), 8)
    assert agent.provider.table.grad is None
    assert same(agent, play(make(settings), 8))


def test_figures_reach_the_logger(tmp_path):
    agent = make(QUICK, env=ToyMasking())
    from stable_baselines3.common.logger import configure

    agent.set_logger(configure(str(tmp_path), ["json"]))
    agent.learn(4 * CONTEXTS, log_interval=2)
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert {"rollout/score/agent", "rollout/critic/noise", "train/policy_loss"} <= lines[-1].keys()


def test_a_metric_of_which_less_is_better_is_made_less():
    class Misses(ToyMasking):
        higher_is_better = {"misses": False}  # noqa: RUF012

        def _score(self, mask):
            scores = super()._score(mask)
            return scores | {"misses": 100 - scores["accuracy"]}

    settings = replace(DEFAULT, metric="misses")
    agent = make(settings, env=Misses(noise=0.0))
    assert learned_share(play(agent, 12)) > 0.6


def test_an_attached_opponent_is_attached_again(tmp_path):
    make(PAPER).save_state(tmp_path)
    env = ToyMasking()
    agent = MaskingActorCritic(env, PAPER, token_features=TypeStates(), seed=0)
    assert "opponent" not in env.references
    agent.load_state(tmp_path)
    assert env.references["opponent"] is agent.opponent


def test_an_attached_opponent_goes_to_another_environment():
    agent, other = play(make(QUICK), 2), ToyMasking()
    agent.set_env(other)
    assert other.references["opponent"] is agent.opponent
    assert "score/opponent" in play(agent, 2).last_metrics
    other.references = None
    with pytest.raises(ValueError, match="self_play='none'"):
        agent.set_env(other)


def test_an_agent_of_another_tokenizer_is_refused(tmp_path):
    states = [TypeStates(), TypeStates()]
    states[0].vocabulary, states[1].vocabulary = "one", "another"
    MaskingActorCritic(ToyMasking(), QUICK, token_features=states[0], seed=0).save(tmp_path)
    MaskingActorCritic.load(tmp_path, token_features=states[0])
    with pytest.raises(ValueError, match="another tokenizer"):
        MaskingActorCritic.load(tmp_path, token_features=states[1])


@pytest.mark.parametrize("settings", [DEFAULT, PAPER], ids=["default", "paper"])
def test_a_context_that_is_replayed_twice_counts_twice(settings):
    agent = play(make(replace(settings, batch=200)), 8)
    batch = agent.experience.sample(0, 200)
    ids = batch.contexts.context_ids
    assert len(set(ids.tolist())) < len(ids)
    apart = replace(batch, contexts=replace(batch.contexts, context_ids=np.arange(len(ids))))
    terms, apart_terms = agent.losses(batch)[0], agent.losses(apart)[0]
    for name, term in terms.items():
        torch.testing.assert_close(term, apart_terms[name])


@pytest.mark.parametrize("prefers", [True, False])
def test_replay_prefers_surprises_where_it_is_asked_to(prefers):
    agent = play(make(replace(PAPER, replay_priority=prefers)), 2)
    one = agent.memory.sample_tokens(1).entries
    agent.memory.update_surprise(one, np.array([50.0]))
    assert (agent.memory.sample_tokens(20).entries == one).all() == prefers


@pytest.mark.parametrize("settings", [QUICK, PAPER], ids=["difference", "sign"])
def test_differences_of_scores_are_replayed_in_units_of_their_spread(settings):
    batch = play(make(settings), 2).memory.sample_tokens(5000)
    if settings is QUICK:
        assert np.isclose(np.square(batch.credits).mean(), 1, atol=0.1)
    else:
        assert set(batch.credits.tolist()) <= {-1.0, 0.0, 1.0}


def test_surprise_is_the_distance_of_credit_from_the_value_of_its_context():
    agent = play(make(replace(PAPER, replay_start=10_000)), 2)
    batch = agent.memory.sample_tokens(50)
    values = state_values(agent.policy.network, agent.features, batch.contexts)
    assert np.abs(values).min() > 0
    surprise = agent.memory.state()[0]["plays.surprise"].reshape(-1)[batch.entries]
    assert np.allclose(surprise, np.abs(batch.credits - values), atol=1e-5)


def test_surprise_is_renewed_by_training_and_not_by_looking_at_the_losses():
    def surprise():
        return agent.memory.state()[0]["plays.surprise"].copy()

    agent = play(make(PAPER), 8)
    before = surprise()
    agent.losses(agent.experience.sample(0, 50))
    assert np.array_equal(surprise(), before)
    play(agent, 1)
    assert (surprise() != before)[before > 0].any()
