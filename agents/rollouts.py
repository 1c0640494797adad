"""Which episode each environment is playing, and how the player departs from its policy in it."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from agents.contexts import Contexts
from agents.episode import PlayedEpisode
from agents.experience import PLAYER, Experience
from agents.players import Players


class Rollouts:
    """The episodes being played, one for each environment.

    What is random in an episode depends on the run's seed, the environment and the episode's
    number there alone, so an episode that was broken off is played again in the same way.
    """

    def __init__(self, experience: Experience, players: Players, seed: int, n_envs: int) -> None:
        self.experience, self.players, self.seed = experience, players, seed
        self._playing: list[PlayedEpisode | None] = [None] * n_envs
        self._finished = [0] * n_envs
        self._number: list[int | None] = [None] * n_envs  # being played, or asked for

    def mask(self, index: int, context: Contexts, env: VecEnv) -> np.ndarray:
        """The mask of the context that an environment shows, bool (L,)."""
        episode = self._playing[index] or self._begin(index, env)
        return episode.next_mask(context, self.experience.features)

    def _begin(self, index: int, env: VecEnv) -> PlayedEpisode:
        """Draw this episode's perturbation; mask all of it at once where the environment can."""
        number = self._number[index] = self.numbers(env)[index]
        rng = np.random.default_rng([self.seed, 4, number, *([index] if index else [])])
        perturbation = self.experience.draw_perturbation(rng)
        episode = PlayedEpisode(self.players.networks[PLAYER], perturbation, rng)
        self._playing[index] = episode
        opposing = self.experience.opponent_perturbation(perturbation)
        self.players.opponents[index].begin(opposing)
        if env.has_attr("observe_episode"):
            seen = env.env_method("observe_episode", indices=index)[0]
            episode.plan(Contexts.of(seen), self.experience.features)
        return episode

    def step(self, index: int, reward: float, done: bool) -> PlayedEpisode | None:
        """Note the reward of a step; gives the episode if that was its last."""
        episode = self._playing[index]
        assert episode is not None
        episode.reward += reward
        if not done:
            return None
        self._playing[index] = self._number[index] = None
        self._finished[index] += 1
        return episode

    def numbers(self, env: VecEnv | None) -> list[int]:
        """Of the episode that each environment is in or was asked for, as it counts them, or else
        as we do."""
        counted = self._finished
        if env is not None and env.has_attr("episode_index"):
            # Before the first reset it is -1. After the last step it is the next one's.
            counted = [max(0, int(number)) for number in env.get_attr("episode_index")]
        pairs = zip(self._number, counted, strict=True)
        return [number if ours is None else ours for ours, number in pairs]

    def unfinished(self) -> int:
        """Environment steps spent on episodes that are not finished."""
        return sum(len(episode) for episode in self._playing if episode is not None)

    def forget_unfinished(self) -> None:
        """Drop unfinished episodes."""
        self._playing = [None] * len(self._playing)

    def dealt(self) -> None:
        """The environments were reset: they are in what they say they are in."""
        self._number = [None] * len(self._number)

    def go_on(self, env: VecEnv | None, numbers: list[int]) -> None:
        """Play these episodes next, if the environments count theirs; of more environments than
        there are numbers, the others begin."""
        self._finished = [*numbers, *self._finished[len(numbers) :]][: len(self._finished)]
        if env is not None and env.has_attr("episode_index"):
            self.resume(env, self._finished, None)

    def resume(self, env: VecEnv, numbers: list[int], weights: list[str] | None) -> None:
        """Let the next reset deal these episodes, and start from these weights."""
        self._finished, self._number = list(numbers), list(numbers)
        options: list[dict[str, object]] = [{"episode": number} for number in numbers]
        for given, key in zip(options, weights or (), strict=False):
            given["weights"] = key
        env.set_options(options)
