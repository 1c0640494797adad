"""The masking environment: mask the contexts of an episode, be paid by the score they lead to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from envs import spaces
from envs.adaptation.jobs import BASE, AdaptationSettings, Executor, Score, ScoreJob
from envs.episode import Episode
from envs.references import (
    NONE,
    Policy,
    Reference,
    UniformRandom,
    reference_masks,
    resolve_references,
)
from envs.rendering import masked_text, use_colour
from envs.reward import AGENT, Reward, compares, resolve_reward
from envs.spaces import Observation
from envs.world import World


class RenderModeError(ValueError, TypeError):
    """There is no such render mode. (A TypeError makes Stable-Baselines3, which asks for pictures
    when it makes an environment by its id, ask again without.)"""


class MaskingEnv(gym.Env[Any, np.ndarray]):
    """Choose which words of a set of contexts a language model is to predict.

    ## Description
    An episode deals B contexts. Each step masks one. After the last one the language model is
    further pre-trained on the masked contexts, fine-tuned on a downstream task and scored; so it
    is, on the same data and with the same seeds, for the masks of every reference. The reward
    compares the scores (Kang, Han, Hwang, EMNLP 2020).

    ## Action Space
    `MultiBinary(L)`, 1 = mask. Bits that are not maskable are dropped; over the budget, a seeded
    random subset is kept. Both are counted in `info`.

    ## Observation Space
    `Dict`, one context padded to L: `input_ids`, `attention_mask`, `word_ids` (-1: none),
    `maskable`, `context_id` (one id, one text) and `budget` (tokens that may be masked).

    ## Starting State
    The first of the B contexts that the world deals from the seed of the run and the episode.
    `reset(seed=s)` starts run s at episode 0, `reset()` goes on to the next episode, and
    `options={"episode": n}` jumps. `reset` does no language-model work.

    ## Rewards
    0.0 until the last step, then any callable on the scores (`envs/reward.py`): `gain` and `sign`
    look at the headline metric, `nll_gain` at the likelihood.

    ## Episode End
    Terminates with the last context; never truncates. The last observation is a repetition.

    ## Information
    Always `episode_index`. After the last step, by `agent` and the name of each reference:
    `masks` (B, L) int8, `scores` (every metric), `cost` (tokens and steps), and where the best
    tokens are known `informative_share` (of the masked tokens; absent where none is masked). Also
    `context_ids` (B,), `mask/dropped` and `mask/over_budget` (bits of the agent's actions).

    ## Arguments
    * `world`: deals episodes. `executor`: turns score jobs into scores, here or elsewhere.
    * `settings`: how a masked set of contexts becomes a score.
    * `budget`: share of the real tokens of a context that may be masked.
    * `reward`: `gain`, `sign`, `nll_gain` or a callable `(scores, reference names) -> float`.
    * `references`: name -> policy, `"random"` or `"none"` (no further pre-training). The first one
      is what the built-in rewards compare with. Default: random. They are `env.references`, a
      dict, in which they may be replaced between episodes.
    * `headline`, `higher_is_better`: the metric `gain` and `sign` look at, and the direction of
      metrics (as in `Task`), that one's among them.
    * `continual`: the weights further pre-trained on the agent's masks are where the next episode
      starts; every `continual_reset_every` episodes, if given, at the model's own again.
      `options={"episode": n, "weights": key}` resumes (`env.weights` is the key to keep).

    ## Version History
    * v0: initial version
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        world: World,
        executor: Executor,
        *,
        settings: AdaptationSettings | None = None,
        budget: float = 0.05,
        reward: str | Reward = "gain",
        references: Mapping[str, Policy | str] | None = None,
        headline: str = "nll",
        higher_is_better: Mapping[str, bool] = MappingProxyType({"nll": False}),
        continual: bool = False,
        continual_reset_every: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        spaces.check_budget(budget)
        if continual_reset_every is not None and continual_reset_every < 1:
            raise ValueError(f"continual_reset_every is {continual_reset_every}; give 1 or more.")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise RenderModeError(
                f"render_mode is {render_mode!r}; it must be 'ansi', 'human' or None."
            )
        if not isinstance(settings, AdaptationSettings | None):
            raise ValueError(
                f"settings is {settings!r}; give an AdaptationSettings (envs.adaptation.jobs)."
            )
        if headline not in higher_is_better:
            raise ValueError(
                f"headline is {headline!r}; it must be one of {', '.join(higher_is_better)}, the "
                "metrics of which higher_is_better says whether more is better."
            )
        self.world = world
        self.executor = executor
        self.settings = settings or AdaptationSettings()
        self.budget = budget
        self.references = resolve_references(references, self._random)
        self.headline = headline
        self.higher_is_better = dict(higher_is_better)
        self.reward = resolve_reward(reward, headline, higher_is_better[headline])
        self.continual = continual
        self.continual_reset_every = continual_reset_every
        self.render_mode = render_mode
        self.observation_space = spaces.observation_space(world.max_length, world.vocab_size)
        self.action_space = spaces.action_space(world.max_length)

        self.run_seed: int | None = None
        self.episode_index = -1
        self.weights = BASE
        self._episode: Episode | None = None
        self._pending: dict[str, tuple[np.ndarray, Future[Score]]] = {}

    @property
    def contexts_per_episode(self) -> int:
        """B: steps of an episode."""
        known = self._episode.deal if self._episode else self.world.deal(np.random.SeedSequence(0))
        return len(known.contexts)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        wanted = _known(options or {}, self.continual)
        self._check_references()
        super().reset(seed=seed)
        self._drop_pending()
        if seed is not None or self.run_seed is None:
            self.run_seed = int(self.np_random.integers(2**31)) if seed is None else seed
            self.episode_index = -1
            self.weights = BASE
        self.episode_index = int(wanted.get("episode", self.episode_index + 1))
        if self.continual_reset_every and self.episode_index % self.continual_reset_every == 0:
            self.weights = BASE
        self.weights = wanted.get("weights", self.weights)
        self._episode = self._begin(self.episode_index)
        self._show()
        return self._episode.observation(), {"episode_index": self.episode_index}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        episode = self._running()
        mask, dropped, over = self._allowed(episode, action, len(episode.masks))
        self._submit_references(episode)
        job = None
        if episode.left == 1:
            masks_BL = np.stack([*episode.masks, mask])
            job = episode.job(masks_BL, self.settings, keep=self.continual)
            self._pending[AGENT] = masks_BL, self.executor.submit(job)
        # Only now: a step whose jobs could not be submitted was not taken, and can be repeated.
        episode.masks.append(mask)
        episode.dropped += dropped
        episode.over_budget += over
        self._show()
        if job is None:
            return episode.observation(), 0.0, False, False, {"episode_index": self.episode_index}
        reward, info = self._finish(episode, job)
        return episode.observation(), reward, True, False, info

    def observe_episode(self) -> Observation:
        """All observations of the episode at once, with a leading B, in fresh arrays."""
        return self._running().observations()

    def step_episode(
        self, masks_BL: np.ndarray
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Mask all contexts at once; the same as B steps from a fresh reset.

        Raises:
            ValueError: if there is not one mask for each context that is left. None is taken then.
        """
        episode = self._running()
        if len(masks_BL) != episode.left:
            raise ValueError(
                f"{episode.left} contexts are left to mask, got {len(masks_BL)} masks."
            )
        for row, mask_L in enumerate(masks_BL, start=len(episode.masks)):
            self._allowed(episode, mask_L, row)  # all are looked at before the first is played
        for mask_L in masks_BL:
            result = self.step(mask_L)
        return result

    def render(self) -> str | None:
        """The text of the context masked last (before the first step: to be masked first)."""
        if self.render_mode is None:
            gym.logger.warn("Pass render_mode='ansi' or 'human' to see the masks.")
            return None
        text = self._text()
        if self.render_mode == "ansi":
            return text
        print(text)
        return None

    def close(self) -> None:
        self._drop_pending()

    def _begin(self, index: int) -> Episode:
        run = 0 if self.run_seed is None else self.run_seed
        return Episode(self.world, run, index, budget=self.budget, weights=self.weights)

    def _running(self) -> Episode:
        if self._episode is None or not self._episode.left:
            raise gym.error.ResetNeeded("The episode is over or not begun: call reset first.")
        return self._episode

    def _allowed(
        self, episode: Episode, action: np.ndarray, row: int
    ) -> tuple[np.ndarray, int, int]:
        """The mask (L,) int8 that an action for a context is, bits dropped, bits over budget."""
        rng = np.random.default_rng(episode.seed("over budget", row))
        return spaces.allowed_mask(action, episode.observation(row), rng)

    def _submit_references(self, episode: Episode) -> None:
        """Once an episode, and early, so that their jobs overlap with the agent's choices."""
        self._check_references()  # a reset that came of itself was before they were replaced
        for name, policy in self.references.items():
            if name not in self._pending:
                masks, job = self._reference(episode, name, policy)
                self._pending[name] = masks, self.executor.submit(job)

    def _foresee_references(self) -> None:
        """Announce the next episode's jobs that wait for no learner's masks.

        Three jobs an episode (player, opponent, random) leave one of two workers idle a quarter of
        the time. An executor with a method ``foresee(job)`` may run what it is told of and find it
        again by content when the job is submitted; results cannot depend on it. In continual mode
        the weights of the next episode are not known yet.
        """
        foresee = getattr(self.executor, "foresee", None)
        fixed = {
            name: policy
            for name, policy in self.references.items()
            if policy == NONE or isinstance(policy, UniformRandom)
        }
        if foresee is None or self.continual or not fixed:
            return
        following = self._begin(self.episode_index + 1)
        for name, policy in fixed.items():
            foresee(self._reference(following, name, policy)[1])

    def _random(self) -> Policy:
        """What the word "random" stands for among the references."""
        return UniformRandom()

    def _check_references(self) -> None:
        # In place: an agent that put its opponent there may hold the dict.
        self.references.update(resolve_references(self.references, self._random))
        if not self.references and compares(self.reward):
            raise ValueError(
                "The reward is a comparison and there is no reference: give references, such as "
                '{"random": "random"}, or a reward that does without, a callable.'
            )

    def _reference(
        self, episode: Episode, name: str, policy: Reference
    ) -> tuple[np.ndarray, ScoreJob]:
        """The masks (B, L) int8 of a reference, and its job."""
        if policy == NONE:
            shape = len(episode.deal.contexts), self.world.max_length
            return np.zeros(shape, np.int8), episode.job(None, self.settings)
        masks_BL = self._reference_masks(episode, name, policy)
        return masks_BL, episode.job(masks_BL, self.settings)

    def _reference_masks(self, episode: Episode, name: str, policy: Any) -> np.ndarray:
        role = f"reference/{name}"
        raw_BL = reference_masks(policy, episode.observations(), episode.int_seed(role))
        rows = []
        for row, mask_L in enumerate(raw_BL):
            rng = np.random.default_rng(episode.seed(role, row))
            rows.append(spaces.allowed_mask(mask_L, episode.observation(row), rng)[0])
        return np.stack(rows)

    def _finish(self, episode: Episode, job: ScoreJob) -> tuple[float, dict[str, Any]]:
        self._foresee_references()
        deal = episode.deal
        results = {AGENT: self._pending[AGENT], **self._pending}  # the agent's first
        scores = {name: future.result() for name, (_, future) in results.items()}
        masks = {name: values for name, (values, _) in results.items()}
        self._pending = {}
        if self.continual:
            self.weights = job.key
        info: dict[str, Any] = {
            "episode_index": self.episode_index,
            "masks": masks,
            "scores": {name: dict(score.metrics) for name, score in scores.items()},
            "cost": {name: dict(score.cost) for name, score in scores.items()},
            "context_ids": np.array(deal.context_ids, np.int32),
            "mask/dropped": episode.dropped,
            "mask/over_budget": episode.over_budget,
        }
        if deal.informative is not None:
            info["informative_share"] = {
                name: deal.informative_share(masks_BL)
                for name, masks_BL in masks.items()
                if masks_BL.any()
            }
        return float(self.reward(scores, list(self.references))), info

    def _drop_pending(self) -> None:
        for _, future in self._pending.values():
            future.cancel()
        self._pending = {}

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()

    def _text(self) -> str:
        if self._episode is None:
            raise gym.error.ResetNeeded("There is no episode to show: call reset first.")
        masks = self._episode.masks or [np.zeros(self.world.max_length, np.int8)]
        context = self._episode.deal.contexts[len(masks) - 1]
        return masked_text(context, masks[-1], self.world.tokenizer, use_colour(sys.stdout))


def _known(options: Mapping[str, Any], continual: bool) -> Mapping[str, Any]:
    """Options of ``reset``, seen to be such."""
    episode, weights = options.get("episode", 0), options.get("weights", BASE)
    counts = isinstance(episode, int | np.integer) and not isinstance(episode, bool)
    if set(options) - {"episode", "weights"} or not counts or episode < 0:
        raise ValueError(
            f"The options of reset are {dict(options)}; it takes `episode`, a whole number, 0 or "
            "more, and `weights`, a key that env.weights had."
        )
    if not isinstance(weights, str) or (weights != BASE and not continual):
        raise ValueError(
            f"The weights to go on from are {weights!r}; they are a key that env.weights had, in "
            f"an environment made with continual=True. Any other starts from {BASE!r}."
        )
    return options
