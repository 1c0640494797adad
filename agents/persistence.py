"""The learning agent as files.

``agent.json`` holds the settings and shapes, ``policy.safetensors`` the networks, the basis of the
token features and the critic; a resumable state adds ``replay.safetensors``,
``optimizers.safetensors`` and ``state.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv

from agents import files
from agents.critic import TokenValueCritic
from agents.features import StateProvider
from agents.settings import AgentSettings

if TYPE_CHECKING:
    from agents.actor_critic import MaskingActorCritic

Agent = TypeVar("Agent", bound="MaskingActorCritic")

ABOUT, TENSORS, STATE = "agent.json", "policy.safetensors", "state.json"
COUNTERS = ("num_timesteps", "_episode_num", "_n_updates", "_untrained")
REQUIRED = ("settings", "length", "vocab_size", "states", "seed")
REQUIRED_STATE = (
    "replay",
    "progress_remaining",
    "policy_rng",
    "opponent_rngs",
    "counters",
    "episodes",
    "weights",
)
DAMAGE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError)
"""What comes of files that do not hold what they should."""


def vocabulary(space: spaces.Dict) -> int:
    """Token ids that an observation space allows."""
    ids = space["input_ids"]
    assert isinstance(ids, spaces.Box)
    return int(ids.high.max()) + 1


def save_agent(agent: MaskingActorCritic, folder: Path) -> None:
    """Write what is needed to act, and to act in self-play."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = files.prefixed("features", agent.features.state())
    for number, network in enumerate(agent.players.networks):
        arrays |= files.prefixed(f"network{number}", files.module_arrays(network))
    if agent.experience.critic is not None:
        arrays |= files.prefixed("critic", agent.experience.critic.state())
    files.write_tensors(folder / TENSORS, arrays)
    assert isinstance(agent.observation_space, spaces.Dict)
    about = {
        "format": files.FORMAT,
        "settings": asdict(agent.settings),
        "length": int(np.prod(agent.action_space.shape)),  # type: ignore[arg-type]
        "vocab_size": vocabulary(agent.observation_space),
        "states": agent.provider is not None,
        "vocabulary": getattr(agent.provider, "vocabulary", None),
        "seed": agent.seed,
        "episodes": agent.rollouts.numbers(agent.env),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_agent(
    kind: type[Agent],
    folder: Path,
    env: GymEnv | None,
    token_features: StateProvider | None,
    **kwargs: Any,
) -> Agent:
    """Build the agent that a folder describes and give it what it had learned."""
    about = files.read_json(folder / ABOUT, REQUIRED)
    if about["states"] and token_features is None:
        raise ValueError(
            f"The agent in '{folder}' reads language-model states; "
            "give token_features, made with the language model that it was trained with."
        )
    _check_tokenizer(folder, about, token_features)
    try:
        inputs = tuple(about["settings"]["inputs"])
        settings = AgentSettings(**(about["settings"] | {"inputs": inputs}))
        length, vocab_size = int(about["length"]), int(about["vocab_size"])
        kwargs.setdefault("seed", int(about["seed"]))
        episodes = [int(number) for number in about.get("episodes", ())]
    except (*DAMAGE, ValueError) as error:
        raise files.mismatch(folder / ABOUT, TENSORS, error) from error
    agent = kind(
        env,
        settings,
        token_features=token_features if about["states"] else None,
        _init_setup_model=False,
        **kwargs,
    )
    if env is None:
        agent.observation_space = _observation_space(length, vocab_size)
        agent.action_space = spaces.MultiBinary(length)
    agent._setup_model()
    assert isinstance(agent.observation_space, spaces.Dict)
    found = vocabulary(agent.observation_space)
    if found != vocab_size:
        raise ValueError(
            f"The agent in '{folder}' was made for a vocabulary of {vocab_size} tokens, the "
            f"environment has {found}; use the language model that it was trained with."
        )
    _fill(agent, folder)
    agent.rollouts.go_on(agent.env, episodes)
    return agent


def _check_tokenizer(folder: Path, about: dict[str, Any], provider: StateProvider | None) -> None:
    found = getattr(provider, "vocabulary", None)
    files.check_vocabulary(f"The agent in '{folder}'", about.get("vocabulary"), found)


def _fill(agent: MaskingActorCritic, folder: Path) -> None:
    arrays = files.read_tensors(folder / TENSORS)
    try:
        agent.features.load_state(files.part("features", arrays))
        for number, network in enumerate(agent.players.networks):
            files.fill_module(network, files.part(f"network{number}", arrays))
        critic = files.part("critic", arrays)
        agent.experience.critic = TokenValueCritic.from_state(critic) if critic else None
    except DAMAGE as error:
        raise files.mismatch(folder / ABOUT, TENSORS, error) from error


def save_state(agent: MaskingActorCritic, folder: Path) -> None:
    """Write all that an uninterrupted run would still have."""
    save_agent(agent, folder)
    arrays, rest = agent.memory.state()
    files.write_tensors(folder / "replay.safetensors", arrays)
    moments: dict[str, np.ndarray] = {}
    for number, optimizer in enumerate(agent.players.optimizers):
        moments |= files.prefixed(str(number), files.optimizer_arrays(optimizer))
    files.write_tensors(folder / "optimizers.safetensors", moments)
    counters = {name: getattr(agent, name) for name in COUNTERS}
    counters["num_timesteps"] -= agent.rollouts.unfinished()  # they will be played again
    state = {
        "replay": rest,
        "progress_remaining": agent._current_progress_remaining,
        "policy_rng": agent.players.policy.generator.bit_generator.state,
        "opponent_rngs": [o.generator.bit_generator.state for o in agent.players.opponents],
        "counters": counters,
        **_places(agent),
        "attached": agent.players.attached,
    }
    (folder / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")


def load_state(agent: MaskingActorCritic, folder: Path) -> None:
    """Take back what ``save_state`` wrote, into an agent of the same settings and seed."""
    state = files.read_json(folder / STATE, REQUIRED_STATE)
    about = files.read_json(folder / ABOUT, REQUIRED)
    settings = json.loads(json.dumps(asdict(agent.settings)))
    saved = about["settings"] if isinstance(about["settings"], dict) else {}
    if saved != settings or not (agent.seed_is_drawn or agent.seed == about["seed"]):
        changed = [n for n in settings if settings[n] != saved.get(n)] or ["seed"]
        raise ValueError(
            f"The state in '{folder}' was saved with another {', '.join(changed)}; "
            "resume with the settings and the seed that the run was started with."
        )
    _check_tokenizer(folder, about, agent.provider)
    length = int(np.prod(agent.action_space.shape))  # type: ignore[arg-type]
    if about["length"] != length:
        raise ValueError(
            f"The state in '{folder}' is of contexts of {about['length']} tokens, the environment "
            f"has {length}; resume on the environment that the run was started on."
        )
    replay = files.read_tensors(folder / "replay.safetensors")
    moments = files.read_tensors(folder / "optimizers.safetensors")
    rngs, opponents = state["opponent_rngs"], agent.players.opponents
    if isinstance(rngs, list) and len(rngs) != len(opponents):
        raise ValueError(
            f"The state in '{folder}' is of {len(rngs)} environments, the agent has "
            f"{len(opponents)}; resume with as many as the run was started with."
        )
    try:
        _fill_state(agent, folder, about, state, replay, moments)
    except DAMAGE as error:
        raise files.mismatch(folder / STATE, "replay.safetensors", error) from error
    agent.rollouts.forget_unfinished()
    agent._last_obs, agent._broken_off = None, False
    if agent.env is not None:
        if state.get("attached"):
            agent.attach_opponent()
        agent.env.seed(agent.seed)
        agent.rollouts.resume(agent.env, state["episodes"], state["weights"])


def _fill_state(
    agent: MaskingActorCritic,
    folder: Path,
    about: Mapping[str, Any],
    state: Mapping[str, Any],
    replay: Mapping[str, np.ndarray],
    moments: Mapping[str, np.ndarray],
) -> None:
    _fill(agent, folder)
    agent.seed = agent.rollouts.seed = about["seed"]
    agent.memory.load_state(replay, state["replay"])
    for number, optimizer in enumerate(agent.players.optimizers):
        files.fill_optimizer(optimizer, files.part(str(number), moments))
    agent._current_progress_remaining = state["progress_remaining"]
    agent.players.policy.generator.bit_generator.state = state["policy_rng"]
    for opponent, rng in zip(agent.players.opponents, state["opponent_rngs"], strict=True):
        opponent.generator.bit_generator.state = rng
    for name, value in state["counters"].items():
        setattr(agent, name, value)


def _places(agent: MaskingActorCritic) -> dict[str, Any]:
    """The episode that each environment is to play next, and the weights that it starts from."""
    env = agent.env
    if env is None:
        return {"episodes": [], "weights": None}
    weights = env.get_attr("weights") if env.has_attr("weights") else None
    return {"episodes": agent.rollouts.numbers(env), "weights": weights}


def adopt_spaces(agent: MaskingActorCritic, env: GymEnv) -> None:
    """Let an agent that was loaded without an environment take one's spaces, if its length and
    vocabulary are theirs: what else its own say of an observation was not saved."""
    ours, theirs = agent.observation_space, env.observation_space
    if not isinstance(ours, spaces.Dict) or not isinstance(theirs, spaces.Dict):
        return
    if agent.action_space == env.action_space and vocabulary(ours) == vocabulary(theirs):
        agent.observation_space = theirs


def _observation_space(length: int, vocab_size: int) -> spaces.Dict:
    top = np.iinfo(np.int32).max
    return spaces.Dict(
        {
            "input_ids": spaces.Box(0, vocab_size - 1, (length,), np.int32),
            "attention_mask": spaces.Box(0, 1, (length,), np.int8),
            "word_ids": spaces.Box(-1, top, (length,), np.int32),
            "maskable": spaces.Box(0, 1, (length,), np.int8),
            "context_id": spaces.Box(0, top, (1,), np.int32),
            "budget": spaces.Box(0, length, (1,), np.int32),
        }
    )
