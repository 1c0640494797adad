"""Off-policy actor-critic that learns which tokens to mask.

An episode masks B contexts, one a step, and ends in the scores of every run: the agent's masks and
each reference's, on the same data with the same seeds. Two algorithms, and everything between
them, by ``AgentSettings``:

*Paper* (Kang, Han and Hwang, EMNLP 2020). A masked token is a one-step bandit problem. With token
a of context s, drawn with probability b(a|s) and credited r,

    loss = - min(pi(a|s) / b(a|s), c) * log pi(a|s) * (r - V(s)) + 1/4 (r - V(s))^2 - 0.01 H(pi),

where the ratio carries no gradient. Where this differs from the released code: the importance
weight is really cut; only maskable tokens have a probability, and one whose score is exactly 0
keeps it; the entropy is a mean over the batch; nothing is BERT's own; everything is saved.

*Default*. A Bayesian critic (``agents.critic``) explains the scores as sums of token values
q(s, a). Each episode draws weights from its posterior, m + d; the player leans towards +d and its
antithetic opponent towards -d around the policy, so their difference measures d twice over. The
actor is trained on contexts in replay to maximise, exactly,

    sum over a of pi(a|s) q(s, a) / sd(q)  +  entropy * H(pi(.|s)).

Both act by drawing tokens without replacement, and by the top k when deterministic.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents import budgeted, persistence
from agents.contexts import Contexts
from agents.critic import TokenValueCritic
from agents.episode import PlayedEpisode, Runs, masked_sums, read_runs
from agents.features import StateProvider, TokenFeatures
from agents.policy import MaskingNetwork, MaskingPolicy, network_inputs
from agents.replay_buffer import MaskReplayBuffer, ReplayBatch
from agents.self_play import (
    AGENT,
    OPPONENT,
    RANDOM,
    UNIFORM,
    Lean,
    Opponent,
    assign_credit,
    lean_scores,
    relative_scores,
)
from agents.settings import AgentSettings

PLAYER, RIVAL = 0, 1
"""The agent and its learning opponent, as replay and optimisers number them."""


class MaskingActorCritic(OffPolicyAlgorithm):
    """Learns a masking policy on any ``Dict`` + ``MultiBinary(L)`` environment of that shape.

    As any Stable-Baselines3 algorithm: ``learn``, ``predict``, ``logger``, ``set_env``,
    callbacks; but ``save`` and ``load`` take a folder of safetensors and JSON, which cannot run
    code. ``agent.policy`` is the masking policy on its own (``predict`` and ``seed``).

    Args:
        env: what to learn on; ``None`` only to act with a loaded policy.
        settings: the algorithm.
        token_features: language-model states of tokens, see ``agents.features.StateProvider``;
            without, the policy learns a table of token embeddings.
        seed: seeds everything, the environment too; without, every run differs.
        observation_space: instead of an environment's.
        action_space: instead of an environment's.
    """

    def __init__(
        self,
        env: GymEnv | str | None,
        settings: AgentSettings = AgentSettings.DEFAULT,
        *,
        token_features: StateProvider | None = None,
        seed: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        device: torch.device | str = "auto",
        monitor_wrapper: bool = True,
        observation_space: spaces.Dict | None = None,
        action_space: spaces.MultiBinary | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            MaskingPolicy,
            env,  # type: ignore[arg-type]
            learning_rate=settings.learning_rate,
            buffer_size=settings.replay_capacity,
            learning_starts=0,
            batch_size=settings.batch,
            gradient_steps=settings.updates,
            replay_buffer_class=MaskReplayBuffer,  # type: ignore[arg-type]
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            monitor_wrapper=monitor_wrapper,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.MultiBinary,),
        )
        if env is None:
            assert observation_space is not None
            assert action_space is not None
            self.observation_space, self.action_space = observation_space, action_space
            self.n_envs = 1
        # Episodes are the unit of learning; several environments end theirs when they do.
        self.train_freq = (1, "episode") if self.n_envs == 1 else (1, "step")
        self.settings = settings
        self.provider = token_features
        self.run_seed = seed if seed is not None else secrets.randbits(31)
        self.last_metrics: dict[str, float] = {}
        """Figures of the last episode and of the updates after it."""
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._convert_train_freq()
        assert isinstance(self.observation_space, spaces.Dict)
        vocab_size = persistence.vocabulary(self.observation_space)
        self.features = TokenFeatures(self.provider, self.settings, vocab_size, self.run_seed)
        self.features.to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.run_seed)
            policy = MaskingPolicy(
                self.observation_space,
                self.action_space,
                self.lr_schedule,
                features=self.features,
                settings=self.settings,
            )
            size, table = self.features.size, vocab_size if self.provider is None else 0
            rival = MaskingNetwork(size, table, self.settings)
        self.policy = policy.to(self.device)
        policy.seed(self.run_seed)
        self.networks = [policy.network]
        if self.settings.self_play in ("frozen", "learning"):
            self.networks.append(rival.to(self.device))
        learners = self.networks if self.settings.self_play == "learning" else self.networks[:1]
        rate = self.settings.learning_rate
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(n.parameters(), lr=rate) for n in learners]
        seeds = [self.run_seed + number for number in range(self.n_envs)]
        self.opponents = [Opponent(self.networks[-1], self.features, seed) for seed in seeds]
        self.critic: TokenValueCritic | None = None
        self.replay_buffer = self.memory = MaskReplayBuffer(  # type: ignore[assignment]
            self.settings.replay_capacity,
            self.observation_space,
            self.action_space,
            contexts=self.settings.replay_contexts,
            priority=self.settings.replay_priority,
            seed=self.run_seed,
        )
        self._playing: list[PlayedEpisode | None] = [None] * self.n_envs
        self._begun = 0
        self._untrained = 0

    @property
    def opponent(self) -> Opponent:
        """The opponent of the first environment."""
        return self.opponents[0]

    def attach_opponent(self, env: GymEnv | None = None) -> None:
        """Make the opponent a reference of the environment: ``references["opponent"]``.

        Does nothing without self-play. Every environment gets an opponent of its own.

        Args:
            env: the agent's own if not given.

        Raises:
            ValueError: if the environment lives in another process or has no references.
        """
        if self.settings.self_play == "none":
            return
        target = self.env if env is None else env
        if isinstance(target, VecEnv):
            target = target.unwrapped
        members = getattr(target, "envs", None) or [target]
        for member, opponent in zip(members, self.opponents, strict=False):
            references = getattr(getattr(member, "unwrapped", member), "references", None)
            if references is None:
                raise ValueError(
                    f"Self-play '{self.settings.self_play}' needs an environment of this process "
                    "with a dictionary 'references'; use a DummyVecEnv of masking environments, "
                    "or self_play='none'."
                )
            references[OPPONENT] = opponent

    # Acting

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """One mask for each environment. Never an unmaskable token, never over the budget."""
        assert isinstance(self._last_obs, dict)
        actions = np.zeros((n_envs, *self.action_space.shape), dtype=np.int8)  # type: ignore[misc]
        for index in range(n_envs):
            episode = self._playing[index] or self._begin(index)
            observation = {name: values[index] for name, values in self._last_obs.items()}
            actions[index] = episode.next_mask(Contexts.of(observation), self.features)
        return actions, actions

    def _begin(self, index: int) -> PlayedEpisode:
        """Draw how this episode leans, and mask all of it at once where the environment can."""
        rng = np.random.default_rng([self.run_seed, 4, self._begun])
        self._begun += 1
        lean = self._draw_lean(rng)
        episode = PlayedEpisode(self.networks[PLAYER], lean, rng)
        self._playing[index] = episode
        self.opponents[index].lean = self._opponent_lean(lean)
        assert self.env is not None
        if self.env.has_attr("observe_episode"):
            seen = self.env.env_method("observe_episode", indices=index)[0]
            episode.plan(Contexts.of(seen), self.features)
        return episode

    def _draw_lean(self, rng: np.random.Generator) -> Lean:
        settings = self.settings
        if settings.exploration == "tokens":
            return Lean()
        if not self.features.ready:
            return UNIFORM
        if self.critic is None:
            direction = rng.standard_normal(self.features.size)
            spread = self.features.spread(direction)
            return Lean(direction * settings.lean / max(spread, 1e-12))
        mean = self.critic.mean()
        away = self.critic.sample(rng) - mean
        sure, unsure = self.features.spread(mean), self.features.spread(away)
        total = max(float(np.hypot(sure, unsure)), 1e-12)
        return Lean(away * settings.lean / total, sure / total)

    def _opponent_lean(self, lean: Lean) -> Lean:
        started = self.memory.tokens() >= self.settings.replay_start
        if self.settings.self_play in ("none", "random") or not started:
            return UNIFORM
        return lean.reversed() if self.settings.self_play == "antithetic" else Lean()

    # Remembering

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # The environments have reset themselves already: new_obs belongs to the next episode, and
        # nothing of a finished one is needed beyond what was played and its last info.
        self._last_obs = new_obs
        for index, done in enumerate(dones):
            episode = self._playing[index]
            assert episode is not None
            episode.reward += float(reward[index])
            if done:
                self._playing[index] = None
                self._finish(index, episode, infos[index])

    def _finish(self, index: int, episode: PlayedEpisode, info: dict[str, Any]) -> None:
        """Learn what a whole episode says: frequencies, basis, critic, replay, opponent."""
        contexts = episode.contexts()
        runs = read_runs(info, episode, self._metric(info, index))
        self.features.count(contexts)
        self.features.fit(contexts)
        if self.settings.critic == "decomposed":
            if self.critic is None and self.features.ready:
                f = self.features
                self.critic = TokenValueCritic(f.share_D, f.group_D, f.covariance_DD)
            if self.critic is not None:
                self._explain(contexts, runs)
        self._remember(PLAYER, contexts, runs, episode.log_probs(), (OPPONENT, RANDOM))
        if OPPONENT in runs.masks:
            self._update_opponent(index, contexts, runs)
        self._untrained += 1
        self.last_metrics = {"episode": float(self._episode_num), "reward": episode.reward}
        self.last_metrics |= {f"score/{name}": value for name, value in runs.scores.items()}
        if self.critic is not None:
            summary = self.critic.summary()
            self.last_metrics |= {f"critic/{name}": value for name, value in summary.items()}
        for name, value in self.last_metrics.items():
            self.logger.record(f"rollout/{name}", value)

    def _metric(self, info: dict[str, Any], index: int) -> str:
        if self.settings.metric != "headline" or "scores" not in info:
            return self.settings.metric
        if "headline" in info:
            return str(info["headline"])
        assert self.env is not None
        return str(self.env.get_attr("headline", indices=index)[0])

    def _explain(self, contexts: Contexts, runs: Runs) -> None:
        assert self.critic is not None
        names = list(runs.scores)
        masks_RBL = np.stack([runs.masks[name] for name in names])
        sums_RD = masked_sums(self.features, contexts, masks_RBL)
        score_R = np.array([runs.scores[name] for name in names])
        relative_R = relative_scores(score_R, self.settings.reward)
        self.critic.observe(sums_RD, masks_RBL.sum(axis=(1, 2)), relative_R)

    def _remember(
        self,
        player: int,
        contexts: Contexts,
        runs: Runs,
        log_probs_BL: np.ndarray,
        rivals: tuple[str, ...],
    ) -> None:
        name = OPPONENT if player else AGENT
        kind = self.settings.reward
        credits_BL = assign_credit(runs.masks, runs.scores, name, rivals, kind)
        values_B = np.zeros(len(contexts))
        if self.settings.replay_priority and self.settings.critic == "state-value":
            values_B = self._state_values(contexts, player)
        masks_BL = runs.masks[name]
        self.memory.add(contexts, masks_BL, log_probs_BL, credits_BL, values_B, player)

    @torch.no_grad()
    def _state_values(self, contexts: Contexts, player: int) -> np.ndarray:
        values = []
        for start in range(0, len(contexts), self.settings.batch):
            part = contexts.rows(slice(start, start + self.settings.batch)).trimmed()
            _, real_BL = network_inputs(part, self.device)
            value_B = self.networks[player].state_value(self.features(part), real_BL)
            values.append(value_B.cpu().numpy())
        return np.concatenate(values)

    def _update_opponent(self, index: int, contexts: Contexts, runs: Runs) -> None:
        """Give a learning opponent its experience; let a frozen one become a player that won."""
        if self.settings.self_play == "learning":
            lean = self.opponents[index].lean
            scores_BL = lean_scores(self.networks[RIVAL], self.features, contexts, lean)
            maskable_BL = torch.as_tensor(contexts.maskable)
            log_probs_BL = budgeted.token_log_probs(scores_BL, maskable_BL).numpy()
            self._remember(RIVAL, contexts, runs, log_probs_BL, (AGENT, RANDOM))
        elif self.settings.self_play == "frozen" and runs.scores[AGENT] > runs.scores[OPPONENT]:
            self.networks[RIVAL].load_state_dict(self.networks[PLAYER].state_dict())

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        """Play; first learn from an episode that was saved before its updates were made."""
        self.train(self.gradient_steps, self.batch_size)
        return super().collect_rollouts(env, *args, **kwargs)

    # Learning

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Update after a finished episode; does nothing otherwise."""
        started = self.memory.tokens() >= self.settings.replay_start
        due, self._untrained = self._untrained > 0, 0
        if not due or not started:
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.optimizers)
        self._token_weights = self._value_weights()
        totals: dict[str, float] = {}
        for player, optimizer in enumerate(self.optimizers):
            if self.settings.gradient == "sampled" and not self.memory.tokens(player):
                continue
            for _ in range(gradient_steps):
                terms = self.losses(self._sample(player, batch_size))
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                limit = self.settings.max_grad_norm
                nn.utils.clip_grad_norm_(self.networks[player].parameters(), limit)
                optimizer.step()
                if player == PLAYER:
                    for name, term in terms.items():
                        totals[name] = totals.get(name, 0.0) + float(term.detach())
        self._n_updates += gradient_steps
        for name, total in totals.items():
            self.last_metrics[f"loss/{name}"] = total / gradient_steps
            self.logger.record(f"train/{name}_loss", total / gradient_steps)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _value_weights(self) -> Tensor:
        """Weights of the expected token value, scaled to a spread of 1 over tokens, (D,)."""
        if self.critic is None:
            return torch.zeros(self.features.size, device=self.device)
        mean = self.critic.mean()
        scaled = mean / max(self.features.spread(mean), 1e-12)
        return torch.as_tensor(scaled, dtype=torch.float32, device=self.device)

    def _sample(self, player: int, batch_size: int) -> ReplayBatch:
        if self.settings.gradient == "expected":
            return replace(self.memory.sample_contexts(batch_size), player=player)
        return self.memory.sample_tokens(batch_size, player)

    def losses(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """The terms of the loss, weighted: their sum is minimised. Override to change the learner.

        Args:
            batch: contexts from replay; with ``gradient="sampled"``, a masked token of each.
        """
        network = self.networks[batch.player]
        ids_BL, real_BL = network_inputs(batch.contexts, self.device)
        maskable_BL = torch.as_tensor(batch.contexts.maskable, device=self.device)
        phi_BLD = self.features(batch.contexts)
        log_probs_BL = budgeted.token_log_probs(network(phi_BLD, ids_BL, real_BL), maskable_BL)
        terms = {"entropy": -self.settings.entropy * budgeted.entropy(log_probs_BL).mean()}
        probs_BL = log_probs_BL.exp()
        value_BL = (phi_BLD @ self._token_weights).masked_fill(~maskable_BL, 0.0)
        expected_B = (probs_BL * value_BL).sum(dim=1)
        if self.settings.gradient == "expected":
            return terms | {"policy": -expected_B.mean()}
        assert batch.positions is not None
        at_B = torch.as_tensor(batch.positions, device=self.device)
        rows_B = torch.arange(len(at_B), device=self.device)
        if self.settings.critic == "decomposed":
            advantage_B = (value_BL[rows_B, at_B] - expected_B).detach()
        else:
            credit_B = self._credits(batch)
            error_B = credit_B - network.state_value(phi_BLD, real_BL)
            advantage_B = error_B.detach()
            terms["value"] = self.settings.value_weight * error_B.square().mean()
            if batch.entries is not None and self.settings.replay_priority:
                self.memory.update_surprise(batch.entries, advantage_B.abs().cpu().numpy())
        behaviour_B = torch.as_tensor(batch.log_probs, device=self.device)
        gain_B = self._weighted(log_probs_BL[rows_B, at_B], behaviour_B, advantage_B)
        return terms | {"policy": -gain_B.mean()}

    def _credits(self, batch: ReplayBatch) -> Tensor:
        credit_B = torch.as_tensor(batch.credits, device=self.device)
        # Signs have a size of their own; differences are brought to it.
        return credit_B if self.settings.reward == "sign" else credit_B / self.memory.credit_scale()

    def _weighted(self, log_prob_B: Tensor, behaviour_B: Tensor, advantage_B: Tensor) -> Tensor:
        """Advantages under the policy, from tokens that an older policy drew."""
        limit = self.settings.importance_limit
        if self.settings.importance == "none":
            return log_prob_B * advantage_B
        ratio_B = (log_prob_B - behaviour_B).exp()
        if self.settings.importance == "truncated":
            return ratio_B.detach().clamp(max=limit) * log_prob_B * advantage_B
        near_B = ratio_B.clamp(2 - limit, limit)
        return torch.minimum(ratio_B * advantage_B, near_B * advantage_B)

    # Files

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
            env: to go on learning.
            token_features: as given to the agent that was saved.
            kwargs: further constructor arguments, e.g. ``device``.

        Raises:
            FileNotFoundError: if the folder holds no agent.
            ValueError: if it was made for another vocabulary, length or kind of states.
        """
        return persistence.load_agent(cls, Path(path), env, token_features, **kwargs)

    def save_state(self, folder: str | Path) -> None:
        """Write everything that goes on: ``save`` plus replay, optimisers, generators, counters."""
        persistence.save_state(self, Path(folder))

    def load_state(self, folder: str | Path) -> None:
        """Go on as if never stopped: ``learn(..., reset_num_timesteps=False)`` afterwards.

        Needs the same settings and seed, and an environment that continues at
        ``reset(options={"episode": n})``. Exact with one environment; of several, unfinished
        episodes are played anew.
        """
        persistence.load_state(self, Path(folder))
