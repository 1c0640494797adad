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

    What is random in an episode depends on the run's seed and the episode's number alone, so an
    episode that was broken off is played again in the same way.

    Attributes:
        begun: episodes begun so far.
    """

    def __init__(self, experience: Experience, players: Players, seed: int, n_envs: int) -> None:
        self.experience, self.players, self.seed = experience, players, seed
        self.begun = 0
        self._playing: list[PlayedEpisode | None] = [None] * n_envs

    def mask(self, index: int, context: Contexts, env: VecEnv) -> np.ndarray:
        """The mask of the context that an environment shows, bool (L,)."""
        episode = self._playing[index] or self._begin(index, env)
        return episode.next_mask(context, self.experience.features)

    def _begin(self, index: int, env: VecEnv) -> PlayedEpisode:
        """Draw how this episode leans, and mask all of it at once where the environment can."""
        rng = np.random.default_rng([self.seed, 4, self.begun])
        self.begun += 1
        lean = self.experience.draw_lean(rng)
        episode = PlayedEpisode(self.players.networks[PLAYER], lean, rng)
        self._playing[index] = episode
        self.players.opponents[index].begin(self.experience.opponent_lean(lean))
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
        self._playing[index] = None
        return episode

    def unfinished(self) -> tuple[int, int]:
        """Episodes begun but not finished, and the environment steps spent on them."""
        playing = [episode for episode in self._playing if episode is not None]
        return len(playing), sum(len(episode) for episode in playing)

    def forget_unfinished(self) -> int:
        """Drop unfinished episodes; gives their environment steps."""
        episodes, steps = self.unfinished()
        self.begun -= episodes
        self._playing = [None] * len(self._playing)
        return steps
