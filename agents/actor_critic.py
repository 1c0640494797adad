"""Off-policy actor-critic that learns which tokens to mask.

An episode masks B contexts, one a step, and ends in the scores of every run: the agent's masks and
each reference's, on the same data with the same seeds. Two algorithms, and everything between
them, by ``AgentSettings``:

*Paper* (Kang, Han and Hwang, EMNLP 2020). A masked token is a one-step bandit problem, whose credit
a state value predicts. Where this differs from the released code: the importance weight is really
cut; only maskable tokens have a probability, and one whose score is exactly 0 keeps it; the entropy
is a mean over the batch; nothing is BERT's own; everything is saved.

*Default*. A Bayesian critic (``agents.critic``) explains the scores as sums of token values
q(s, a). Each episode draws weights from its posterior, m + d; the player departs from the
policy by +d and its antithetic opponent by -d, so their difference measures d twice over. The actor
is trained on contexts in replay.

What is minimised is in ``agents.losses``. Both act by drawing tokens without replacement. When the
same mask is wanted each time, *paper* takes the top k, *default* a draw whose noise belongs to the
context (``settings.repeatable``).
"""

from __future__ import annotations

import math
import secrets
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents import persistence
from agents.contexts import Contexts
from agents.episode import PlayedEpisode, Runs, read_runs
from agents.experience import PLAYER, RIVAL, Experience
from agents.features import StateProvider, TokenFeatures
from agents.losses import masking_losses
from agents.players import Players
from agents.policy import MaskingPolicy
from agents.replay_buffer import MaskReplayBuffer, ReplayBatch
from agents.rollouts import Rollouts
from agents.self_play import OPPONENT, Opponent
from agents.settings import AgentSettings


class MaskingActorCritic(OffPolicyAlgorithm):
    """Learns a masking policy on any ``Dict`` + ``MultiBinary(L)`` environment of that shape.

    As any Stable-Baselines3 algorithm: ``learn``, ``predict``, ``logger``, ``set_env``,
    callbacks; but ``save`` and ``load`` take a folder of safetensors and JSON, which cannot run
    code. ``agent.policy`` is the masking policy on its own (``predict`` and ``seed``).

    Args:
        env: what to learn on; ``None`` only to act with a loaded policy.
        settings: the algorithm; the default one if not given.
        token_features: language-model states of tokens, see ``agents.features.StateProvider``;
            without, the policy learns a table of token embeddings.
        seed: seeds everything, the environment too; without, every run differs.
        options: Stable-Baselines3's ``device``, ``verbose``, ``tensorboard_log``,
            ``stats_window_size`` and ``monitor_wrapper``.
    """

    def __init__(
        self,
        env: GymEnv | str | None,
        settings: AgentSettings | None = None,
        *,
        token_features: StateProvider | None = None,
        seed: int | None = None,
        _init_setup_model: bool = True,
        **options: Any,
    ) -> None:
        settings = settings or AgentSettings()
        self.seed_is_drawn = seed is None
        super().__init__(
            MaskingPolicy,
            env,  # type: ignore[arg-type]
            learning_rate=settings.learning_rate,
            learning_starts=0,
            batch_size=settings.batch,
            gradient_steps=settings.updates,
            support_multi_env=True,
            seed=secrets.randbits(31) if seed is None else int(seed),
            sde_support=False,
            supported_action_spaces=(spaces.MultiBinary,),
            **options,
        )
        if env is None:
            self.n_envs = 1
        # Episodes are the unit of learning; several environments end theirs when they do.
        self.train_freq = (1, "episode") if self.n_envs == 1 else (1, "step")
        self.settings = settings
        self.provider = token_features
        self.last_metrics: dict[str, float] = {}
        """Figures of the last episode and of the updates after it."""
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        assert self.seed is not None
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._convert_train_freq()
        assert isinstance(self.observation_space, spaces.Dict)
        vocab_size = persistence.vocabulary(self.observation_space)
        self.features = TokenFeatures(self.provider, self.settings, vocab_size, self.seed)
        self.features.to(self.device)
        self.players = Players(
            self.observation_space,
            self.action_space,
            self.features,
            self.settings,
            seed=self.seed,
            n_envs=self.n_envs,
            device=self.device,
        )
        self.policy = self.players.policy
        self.memory = MaskReplayBuffer(
            self.settings.replay_capacity * len(self.players.optimizers),
            int(np.prod(self.action_space.shape)),  # type: ignore[arg-type]
            contexts=self.settings.replay_contexts,
            learners=len(self.players.optimizers),
            priority=self.settings.replay_priority,
            normalise=self.settings.reward == "difference",
            seed=self.seed,
        )
        self.experience = Experience(self.settings, self.features, self.memory)
        self.rollouts = Rollouts(self.experience, self.players, self.seed, self.n_envs)
        self._untrained = 0
        self._whole_steps = 0  # environment steps of whole episodes
        self._broken_off = False

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the environment. Everything else has generators of its own, so that the process's,
        which Stable-Baselines3 would seed, too, stay the user's."""
        if self.env is not None:
            self.env.seed(seed)

    @property
    def opponent(self) -> Opponent:
        """The opponent of the first environment."""
        return self.players.opponents[0]

    def attach_opponent(self) -> None:
        """Make the opponent a reference of the environment: ``references["opponent"]``.

        Does nothing without self-play. Every environment gets an opponent of its own.

        Raises:
            ValueError: if the environment lives in another process or has no references.
        """
        if self.settings.self_play != "none":
            self.players.attach(self.env)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Learn on another environment from now on; an attached opponent goes there, too.

        Raises:
            ValueError: if it has other spaces, or an opponent was attached and cannot be there.
        """
        if self.env is None:
            persistence.adopt_spaces(self, env)
        super().set_env(env, force_reset)
        self.rollouts.dealt()
        self._broken_off = False
        attached, self.players.attached = self.players.attached, False
        if attached:
            self.attach_opponent()

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """One mask for each environment. Never an unmaskable token, never over the budget."""
        assert isinstance(self._last_obs, dict)
        assert self.env is not None
        actions = np.zeros((n_envs, *self.action_space.shape), dtype=np.int8)  # type: ignore[misc]
        for index in range(n_envs):
            observation = {name: values[index] for name, values in self._last_obs.items()}
            actions[index] = self.rollouts.mask(index, Contexts.of(observation), self.env)
        return actions, actions

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # The environments have reset themselves already: new_obs belongs to the next episode.
        self._last_obs = new_obs
        for index, done in enumerate(dones):
            episode = self.rollouts.step(index, float(reward[index]), bool(done))
            if episode is not None:
                self._whole_steps += len(episode)
                self._finish(index, episode, infos[index])

    def _finish(self, index: int, episode: PlayedEpisode, info: dict[str, Any]) -> None:
        """Learn what a whole episode says: frequencies, basis, critic, replay, opponent."""
        if info.get("TimeLimit.truncated"):
            warnings.warn(
                f"Nothing is learned from episode {self._episode_num}: it was cut short before its "
                "scores; leave out what limits its steps.",
                stacklevel=2,
            )
            return
        assert self.env is not None
        contexts = episode.contexts()
        runs = read_runs(info, episode, self.settings.metric, self.env)
        self.last_metrics = {"episode": float(self._episode_num), "reward": episode.reward}
        self.last_metrics |= {f"score/{name}": value for name, value in runs.scores.items()}
        if all(map(math.isfinite, runs.scores.values())):
            self._learn_from(index, episode, contexts, runs)
        else:  # one such number would make all that is learned later another
            warnings.warn(
                f"Nothing is learned from episode {self._episode_num}: a score is no number "
                "(training that diverged, or nothing to score on).",
                stacklevel=2,
            )
        self.last_metrics |= self.experience.summary()
        for name, value in self.last_metrics.items():
            self.logger.record(f"rollout/{name}", value)

    def _learn_from(
        self, index: int, episode: PlayedEpisode, contexts: Contexts, runs: Runs
    ) -> None:
        self.experience.learn(contexts, runs)
        player, rival = self.players.networks[0], self.players.networks[-1]
        self.experience.remember(PLAYER, player, contexts, runs, episode.log_probs())
        self.players.update_frozen_opponent(runs)
        if OPPONENT in runs.scores and self.settings.self_play == "learning":
            log_probs_BL = self.players.opponents[index].log_probs(contexts)
            if log_probs_BL is not None:
                self.experience.remember(RIVAL, rival, contexts, runs, log_probs_BL)
        self._untrained += 1
        if self.memory.forgets and not self.experience.started:
            warnings.warn(
                f"The policy does not learn: replay_start is {self.settings.replay_start}, but the "
                "replay forgets before it holds so many masked tokens; lower replay_start or raise "
                "replay_contexts.",
                stacklevel=2,
            )

    def _setup_learn(
        self, total: int, callback: Any = None, reset_num_timesteps: bool = True, *rest: Any
    ) -> Any:
        resets = reset_num_timesteps or self._last_obs is None
        if resets:
            self.rollouts.forget_unfinished()
            if self._broken_off and self.env is not None:
                self._ask_again(self.env)
        wants = self.settings.self_play != "none" and not self.players.attached
        if wants and self.env is not None and self.env.has_attr("references"):
            warnings.warn(
                f"Self-play is {self.settings.self_play!r}, but the environment has no opponent: "
                "call attach_opponent() first, or set self_play to 'none'.",
                stacklevel=3,
            )
        started = super()._setup_learn(total, callback, reset_num_timesteps, *rest)
        if resets:
            self.rollouts.dealt()
        return started

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any
    ) -> RolloutReturn:
        """Play; first learn from an episode that was saved before its updates were made."""
        self.train(self.gradient_steps, self.batch_size)
        self._whole_steps = self.num_timesteps - self.rollouts.unfinished()
        try:
            rollout = super().collect_rollouts(env, callback, *args, **kwargs)
        except BaseException:
            # Whether the environments took the step nobody knows, and now they may not answer.
            self._broken_off = True
            self._forget_unfinished()
            raise
        if not rollout.continue_training:
            self._stop(env, callback.locals)
        return rollout

    def _stop(self, env: VecEnv, last: dict[str, Any]) -> None:
        """A callback stopped in the middle of a step, which the environments have taken."""
        if last["dones"].any():  # what was played to its end is not lost
            names = ("replay_buffer", "buffer_actions", "new_obs", "rewards", "dones", "infos")
            self._store_transition(*(last[name] for name in names))
            self._episode_num += int(last["dones"].sum())
        self._forget_unfinished()
        self._ask_again(env)

    def _forget_unfinished(self) -> None:
        self.rollouts.forget_unfinished()
        self.num_timesteps = self._whole_steps
        self._last_obs = None

    def _ask_again(self, env: VecEnv) -> None:
        """Let the episodes that were broken off be dealt again."""
        self._broken_off = False
        self.rollouts.go_on(env, self.rollouts.numbers(env))

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Update, so many times for each episode finished since; does nothing without one."""
        gradient_steps, self._untrained = gradient_steps * self._untrained, 0
        if not gradient_steps or not self.experience.started:
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.players.optimizers)
        totals: dict[str, float] = {}
        for player in range(len(self.players.optimizers)):
            for _ in range(gradient_steps):
                batch = self.experience.sample(player, batch_size)
                if batch is None:
                    break
                terms, surprise_N = self.losses(batch)
                if surprise_N is not None and batch.entries is not None:
                    self.memory.update_surprise(batch.entries, surprise_N.cpu().numpy())
                self.players.step(player, torch.stack(list(terms.values())).sum())
                if player == PLAYER:
                    for name, term in terms.items():
                        totals[name] = totals.get(name, 0.0) + float(term.detach())
        self._n_updates += gradient_steps
        for name, total in totals.items():
            self.last_metrics[f"loss/{name}"] = total / gradient_steps
            self.logger.record(f"train/{name}_loss", total / gradient_steps)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def losses(self, batch: ReplayBatch) -> tuple[dict[str, Tensor], Tensor | None]:
        """What is minimised. Override to change the learner.

        Args:
            batch: contexts from replay; with ``gradient="sampled"``, a masked token of each.

        Returns:
            The weighted terms, and with a state value how surprising each token's credit was.
        """
        network = self.players.networks[batch.player]
        weights_D = self.experience.value_weights(self.device)
        return masking_losses(network, self.features, batch, weights_D, self.settings)

    def save(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Write the policy and what it was learned with to a folder: enough to act."""
        persistence.save_agent(self, Path(path))

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: GymEnv | None = None,
        token_features: StateProvider | None = None,
        **kwargs: Any,
    ) -> MaskingActorCritic:
        """Read an agent from a folder that ``save`` wrote.

        Args:
            path: the folder.
            env: to go on learning. The episodes that it learned from are not dealt again; to go on
                exactly, replay and all, is what ``load_state`` does.
            token_features: as given to the agent that was saved.
            kwargs: further constructor arguments, e.g. ``device``.

        Raises:
            FileNotFoundError: if the folder holds no agent.
            ValueError: if it was made for another vocabulary or kind of states. It may act, and
                learn on, in contexts of another length.
        """
        return persistence.load_agent(cls, Path(path), env, token_features, **kwargs)

    def save_replay_buffer(self, path: Any) -> None:
        """Refused: Stable-Baselines3's is a pickle."""
        raise NotImplementedError("Replay is no pickle; save_state(folder) writes it.")

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Refused: to read Stable-Baselines3's pickle could run code."""
        raise NotImplementedError("Pickles are not read; load_state(folder) reads replay.")

    def save_state(self, folder: str | Path) -> None:
        """Write everything that goes on: ``save`` plus replay, optimisers, generators, counters."""
        persistence.save_state(self, Path(folder))

    def load_state(self, folder: str | Path) -> None:
        """Go on as if never stopped: ``learn(..., reset_num_timesteps=False)`` afterwards.

        Needs the same settings and seed, and an environment that continues at
        ``reset(options={"episode": n})``. An opponent that was attached is attached again,
        unfinished episodes are played anew. Several environments go on exactly only if all their
        episodes have one length.
        """
        persistence.load_state(self, Path(folder))
