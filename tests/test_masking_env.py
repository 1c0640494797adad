"""The environment's promises, against a world whose answer is known."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stub_world import (
    FailingExecutor,
    StubExecutor,
    StubWorld,
    even_tokens,
    first_maskable,
    play,
    stub_env,
)

from agents.fragments import densest_fragment
from envs.adaptation.jobs import BASE
from envs.episode import episode_seed
from envs.fragment_env import FragmentMaskingEnv
from envs.masking_env import MaskingEnv
from envs.references import UniformRandom


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


@pytest.mark.filterwarnings("error::UserWarning")
def test_both_check_envs_pass_without_a_warning(tiny_tokenizer, monkeypatch):
    monkeypatch.setitem(gym.registry, "stub/Mask-v0", None)  # forgotten after the test
    del gym.registry["stub/Mask-v0"]
    gym.register("stub/Mask-v0", entry_point=partial(stub_env, tiny_tokenizer))
    env = gym.make("stub/Mask-v0", render_mode="ansi")
    gymnasium_check_env(env.unwrapped)
    sb3_check_env(env.unwrapped)


def test_observation_pads_and_never_offers_special_tokens(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    observation, _ = env.reset(seed=3)
    n = int(observation["attention_mask"].sum())
    assert (observation["input_ids"][n:] == tiny_tokenizer.pad_token_id).all()
    assert (observation["word_ids"][n:] == -1).all()
    assert not observation["maskable"][[0, n - 1]].any()
    assert not observation["maskable"][n:].any()
    assert observation["budget"][0] == max(1, int(0.2 * n))


def test_padding_changes_neither_masks_nor_reward(tiny_tokenizer):
    outcomes = []
    for length in (24, 40):
        env = stub_env(tiny_tokenizer, max_length=length)
        _, reward, info = play(env, lambda o: np.ones_like(o["maskable"]), seed=5)
        outcomes.append((reward, info["scores"], {k: m[:, :24] for k, m in info["masks"].items()}))
        assert not info["masks"]["agent"][:, 24:].any()
    assert outcomes[0][:2] == outcomes[1][:2]
    assert np.array_equal(outcomes[0][2]["agent"], outcomes[1][2]["agent"])


def test_one_seed_gives_one_episode_bit_for_bit(tiny_tokenizer):
    runs = []
    for _ in range(2):
        env = stub_env(tiny_tokenizer)
        runs.append(play(env, first_maskable, seed=11))
    (seen_a, reward_a, info_a), (seen_b, reward_b, info_b) = runs
    assert all(same(a, b) for a, b in zip(seen_a, seen_b, strict=True))
    assert reward_a == reward_b
    assert same(info_a["masks"], info_b["masks"])


def test_episodes_differ_and_can_be_jumped_to(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    first, _, _ = play(env, first_maskable, seed=11)
    second, reward, info = play(env, first_maskable)
    assert env.episode_index == 1
    assert not same(first[0], second[0])
    fresh = stub_env(tiny_tokenizer)
    jumped, jumped_reward, jumped_info = play(
        fresh, first_maskable, seed=11, options={"episode": 1}
    )
    assert all(same(a, b) for a, b in zip(second, jumped, strict=True))
    assert reward == jumped_reward
    assert same(info["masks"], jumped_info["masks"])


def test_unseeded_environments_differ(tiny_tokenizer):
    first, second = (stub_env(tiny_tokenizer).reset()[0] for _ in range(2))
    assert not same(first, second)


def test_reward_comes_last_and_prefers_the_known_best_mask(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    env.reset(seed=1)
    batch = env.observe_episode()
    for row in range(env.contexts_per_episode):
        observation = {name: values[row] for name, values in batch.items()}
        _, reward, terminated, truncated, info = env.step(even_tokens(observation))
        assert not truncated
        assert terminated == (row == env.contexts_per_episode - 1)
        assert type(reward) is float
        assert terminated or reward == 0.0
    assert reward > 0
    difference = info["scores"]["agent"]["accuracy"] - info["scores"]["random"]["accuracy"]
    assert reward == difference
    assert info["informative_share"]["agent"] == 1.0
    assert 0 < info["informative_share"]["random"] < 1


def test_what_the_rules_forbid_is_dropped_and_counted(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    env.reset(seed=2)
    batch = env.observe_episode()
    _, _, info = play(env, lambda o: np.ones_like(o["maskable"]), seed=2)
    masks = info["masks"]["agent"]
    assert masks.dtype == np.int8
    assert not masks[batch["maskable"] == 0].any()
    assert (masks.sum(1, keepdims=True) == batch["budget"]).all()
    maskable = int(batch["maskable"].sum())
    assert info["mask/dropped"] == batch["maskable"].size - maskable
    assert info["mask/over_budget"] == maskable - int(batch["budget"].sum())


@pytest.mark.parametrize("strange", [0.5, np.nan, 2, -1])
def test_an_action_that_is_no_mask_is_refused(tiny_tokenizer, strange):
    env = stub_env(tiny_tokenizer)
    env.reset(seed=2)
    action = np.zeros(env.action_space.shape)
    action[3] = strange
    with pytest.raises(ValueError, match=f"1 to mask it or 0; got {strange}"):
        env.step(action)
    env.step(np.zeros(env.action_space.shape, bool))  # nothing was masked by it


NO_OPTION = "takes `episode`, a whole number, 0 or more, and `weights`"
NO_WEIGHTS = "are a key that env.weights had, in an environment made with continual=True"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"episodes": 3}, NO_OPTION),
        *(({"episode": value}, NO_OPTION) for value in (-1, 2.7, True, "3", None)),
        ({"weights": "a key"}, NO_WEIGHTS),
        ({"weights": None}, NO_WEIGHTS),
    ],
)
def test_options_that_reset_does_not_have_are_refused(tiny_tokenizer, options, complaint):
    env = stub_env(tiny_tokenizer)
    env.reset(seed=2)
    with pytest.raises(ValueError, match=complaint):
        env.reset(seed=3, options=options)
    assert env.run_seed == 2
    assert env.episode_index == 0
    env.reset(options={"episode": np.int64(5), "weights": BASE})  # as a run that goes on says it
    assert env.episode_index == 5


def test_agent_and_references_share_data_seed_and_settings(tiny_tokenizer):
    env = stub_env(tiny_tokenizer, references={"random": "random", "none": "none"})
    _, _, info = play(env, first_maskable, seed=4)
    random, none, agent = env.executor.jobs
    for other in (random, none):
        assert agent.seed == other.seed
        for shared in ("contexts", "train", "score", "settings"):
            assert getattr(agent, shared) is getattr(other, shared)
    assert none.masks is None
    assert not info["masks"]["none"].any()
    assert "none" not in info["informative_share"]
    assert set(info["scores"]) == set(info["cost"]) == {"agent", "random", "none"}
    play(env, first_maskable)
    assert env.executor.jobs[-1].seed != agent.seed


def test_references_are_submitted_at_the_first_step(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    observation, _ = env.reset(seed=4)
    assert not env.executor.jobs
    env.step(first_maskable(observation))
    assert len(env.executor.jobs) == 1


def test_the_next_episode_s_random_reference_is_announced(tiny_tokenizer):
    env = stub_env(tiny_tokenizer, references={"none": "none", "random": "random"})
    announced = []
    env.executor.foresee = lambda job: announced.append(job.key)
    plain = stub_env(tiny_tokenizer, references={"none": "none", "random": "random"})
    for episode in range(3):
        for played in (env, plain):
            play(played, first_maskable, **({"seed": 3} if episode == 0 else {}))
    assert [job.key for job in env.executor.jobs] == [job.key for job in plain.executor.jobs]
    submitted = [env.executor.jobs[3 * episode + i].key for episode in (1, 2) for i in (0, 1)]
    assert announced[:4] == submitted


def test_the_announced_jobs_are_those_of_the_environment_itself(tiny_tokenizer):
    """Whatever its constructor takes, and however it reads masks."""

    class Brief(FragmentMaskingEnv):
        def __init__(self, executor):
            super().__init__(StubWorld(tiny_tokenizer), executor, reading=densest_fragment)
            self.references["scattered"] = UniformRandom()

    class Foreseeing(StubExecutor):
        def __init__(self):
            super().__init__()
            self.announced = []

        def foresee(self, job):
            self.announced.append(job.key)

    env = Brief(Foreseeing())
    play(env, first_maskable, seed=3)
    play(env, first_maskable)
    references = [job.key for job in env.executor.jobs[3:5]]
    assert env.executor.announced[:2] == references


def test_an_equal_policy_as_agent_and_reference_earns_nothing(tiny_tokenizer):
    class Left:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            maskable = observation["maskable"].astype(bool)
            return maskable & (maskable.cumsum(-1) <= observation["budget"]), state

    env = stub_env(tiny_tokenizer, references={"left": Left()})
    _, reward, info = play(env, first_maskable, seed=8)
    assert reward == 0.0
    assert np.array_equal(info["masks"]["agent"], info["masks"]["left"])


def test_a_torch_policy_as_reference_is_reproducible(tiny_tokenizer):
    class Torch:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return (torch.rand(observation["maskable"].shape) < 0.5).numpy(), state

    masks = [
        play(stub_env(tiny_tokenizer, references={"t": Torch()}), first_maskable, seed=8)[2]
        for _ in range(2)
    ]
    assert np.array_equal(masks[0]["masks"]["t"], masks[1]["masks"]["t"])


def test_all_contexts_at_once_is_the_same_as_one_by_one(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    seen, reward, info = play(env, lambda o: np.ones_like(o["maskable"]), seed=6)
    env.reset(seed=6)
    batch = env.observe_episode()
    for row, observation in enumerate(seen[:-1]):
        assert same(observation, {name: values[row] for name, values in batch.items()})
    _, reward_at_once, terminated, _, info_at_once = env.step_episode(
        np.ones_like(batch["maskable"])
    )
    assert terminated
    assert reward_at_once == reward
    assert same(info["masks"], info_at_once["masks"])
    env.reset()
    with pytest.raises(ValueError, match="4 contexts are left"):
        env.step_episode(batch["maskable"][:2])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_step_whose_job_was_not_taken_can_be_repeated(tiny_tokenizer, after):
    """The first reference's job, the second's, the agent's."""
    settings = {"references": {"random": "random", "none": "none"}}
    _, reward, info = play(stub_env(tiny_tokenizer, **settings), first_maskable, seed=6)
    env = stub_env(tiny_tokenizer, **settings)
    env.executor = FailingExecutor(after)
    masks = first_maskable_of(env, seed=6)
    left = len(masks)
    while left:
        try:
            _, again, terminated, _, info_again = env.step(masks[-left])
        except OSError:
            continue
        left -= 1
    assert terminated
    assert env.executor.failed
    assert len(env.executor.jobs) == 3
    assert again == reward
    assert same(info["masks"], info_again["masks"])


def test_of_masks_at_once_all_are_taken_or_none(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    good = first_maskable_of(env, seed=6)
    bad = good.astype(float)
    bad[2, 3] = np.nan
    with pytest.raises(ValueError, match="got nan"):
        env.step_episode(bad)
    assert not env.executor.jobs
    *_, info = env.step_episode(good)
    assert np.array_equal(info["masks"]["agent"], good)


def first_maskable_of(env, seed):
    env.reset(seed=seed)
    batch = env.observe_episode()
    rows = range(env.contexts_per_episode)
    return np.stack([first_maskable({k: v[row] for k, v in batch.items()}) for row in rows])


def test_uniform_random_uses_the_whole_budget_evenly(tiny_tokenizer):
    env = stub_env(tiny_tokenizer, contexts=1)
    env.reset(seed=0)
    batch = {name: values.repeat(3000, 0) for name, values in env.observe_episode().items()}
    masks, _ = UniformRandom(1).predict(batch)
    assert (masks.sum(1) == batch["budget"][:, 0]).all()
    maskable = batch["maskable"][0].astype(bool)
    rates = masks.mean(0)
    assert (rates[~maskable] == 0).all()
    assert np.allclose(rates[maskable], batch["budget"][0, 0] / maskable.sum(), atol=0.03)


def test_an_episode_of_one_context_has_its_references_too(tiny_tokenizer):
    env = stub_env(tiny_tokenizer, contexts=1)
    _, _, info = play(env, first_maskable, seed=0)
    assert set(info["scores"]) == {"agent", "random"}
    assert info["masks"]["random"].sum() == info["masks"]["agent"].sum()


def test_continual_mode_carries_the_agents_weights(tiny_tokenizer):
    env = stub_env(tiny_tokenizer, continual=True, continual_reset_every=2)
    play(env, first_maskable, seed=0)
    random, agent = env.executor.jobs
    assert (random.weights, agent.weights) == (BASE, BASE)
    assert agent.keep_weights
    assert not random.keep_weights
    play(env, first_maskable)
    assert {job.weights for job in env.executor.jobs[2:]} == {agent.key}
    play(env, first_maskable)
    assert {job.weights for job in env.executor.jobs[4:]} == {BASE}
    play(env, first_maskable, seed=0, options={"episode": 7, "weights": "kept"})
    assert {job.weights for job in env.executor.jobs[6:]} == {"kept"}


def test_a_finished_episode_wants_a_reset(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(24, np.int8))
    seen, _, _ = play(env, first_maskable, seed=0)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(first_maskable(seen[-1]))


def test_bad_settings_are_refused_in_a_sentence(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"budget is 1\.5"):
        stub_env(tiny_tokenizer, budget=1.5)
    with pytest.raises(ValueError, match="Unknown reward 'gian'"):
        stub_env(tiny_tokenizer, reward="gian")
    with pytest.raises(ValueError, match="'none', 'random' or a policy"):
        stub_env(tiny_tokenizer, references={"x": "spam"})
    with pytest.raises(ValueError, match="called 'agent'"):
        stub_env(tiny_tokenizer, references={"agent": "random"})
    with pytest.raises(ValueError, match="headline is 'acuracy'; it must be one of accuracy, nll"):
        stub_env(tiny_tokenizer, headline="acuracy")
    env = stub_env(tiny_tokenizer)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(24,\), got \(3,\)"):
        env.step(np.ones(3))


def test_references_may_be_replaced_between_episodes_by_all_that_may_be_given(tiny_tokenizer):
    env = stub_env(tiny_tokenizer)
    attached = env.references
    play(env, first_maskable, seed=0)
    env.references |= {"x": "random", "y": "none"}
    _, _, info = play(env, first_maskable)
    assert info["masks"]["x"].any()
    assert not info["masks"]["y"].any()
    assert env.references is attached


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda references: references.update(agent=UniformRandom()), "called 'agent'"),
        (lambda references: references.update(x="spam"), "'none', 'random' or a policy"),
        (lambda references: references.update(x=None), "'none', 'random' or a policy"),
        (dict.clear, "is a comparison and there is no reference"),
    ],
)
def test_references_that_cannot_be_are_refused_before_a_job_runs(tiny_tokenizer, change, complaint):
    env = stub_env(tiny_tokenizer)
    env.reset(seed=0)
    change(env.references)
    for act in (env.reset, lambda: env.step(np.zeros(24))):
        with pytest.raises(ValueError, match=complaint):
            act()
    assert not env.executor.jobs


def test_render_marks_the_masked_words(tiny_tokenizer, capsys, monkeypatch):
    env = stub_env(tiny_tokenizer, render_mode="ansi", budget=0.05)
    observation, _ = env.reset(seed=0)
    assert "[" not in env.render()
    env.step(first_maskable(observation))
    assert env.render().count("[") == 1
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert env.render().count("\x1b[1;") == 1
    human = stub_env(tiny_tokenizer, render_mode="human")
    human.reset(seed=0)
    assert capsys.readouterr().out


def test_seeds_depend_on_every_part_of_their_name():
    keys = [(0, 0, "deal"), (1, 0, "deal"), (0, 1, "deal"), (0, 0, "score"), (0, 0, "score", 1)]
    states = {tuple(episode_seed(*key).generate_state(4)) for key in keys}
    assert len(states) == len(keys)
    assert episode_seed(3, 2, "deal").generate_state(1) == episode_seed(
        3, 2, "deal"
    ).generate_state(1)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vector_environments_reset_themselves(tiny_tokenizer, mode):
    make = lambda: stub_env(tiny_tokenizer, contexts=3)  # noqa: E731
    envs = SyncVectorEnv([make, make], autoreset_mode=mode)
    envs.reset(seed=0)
    ends = 0
    for _ in range(9):
        actions = np.zeros((2, 24), np.int8)
        actions[:, 3] = 1
        _, _, terminated, _, infos = envs.step(actions)
        ends += int(terminated.sum())
        if terminated.any() and mode == AutoresetMode.SAME_STEP:
            assert infos["final_info"]["masks"]["agent"].shape == (2, 3, 24)
    assert ends == (6 if mode == AutoresetMode.SAME_STEP else 4)
    envs.close()


def test_ppo_learns_on_it_for_200_steps(tiny_tokenizer):
    model = PPO("MultiInputPolicy", stub_env(tiny_tokenizer), n_steps=64, batch_size=32, n_epochs=2)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(200)
    after = list(model.policy.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not p.equal(old) for p, old in zip(after, before, strict=True))


def test_importing_nmg_is_light_and_registers():
    code = (
        "import sys, nmg, gymnasium as gym\n"
        "ids = {name for name in gym.registry if name.startswith('nmg/')}\n"
        "assert {'nmg/MaskQA-v0', 'nmg/MaskClassification-v0', 'nmg/MaskTestbed-v0'} <= ids, ids\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "assert gym.spec('nmg/MaskQA-v0').to_json()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_directions_of_metrics_can_be_asked_for_from_another_process(tiny_tokenizer) -> None:
    env = MaskingEnv(StubWorld(tiny_tokenizer), StubExecutor())
    assert pickle.loads(pickle.dumps(env.higher_is_better)) == {"nll": False}
