"""An episode: what the world dealt, and how far it is masked."""

from __future__ import annotations

import zlib

import numpy as np

from envs import spaces
from envs.adaptation.jobs import AdaptationSettings, ScoreJob
from envs.spaces import Observation
from envs.world import World


def episode_seed(run: int, episode: int, role: str, *index: int) -> np.random.SeedSequence:
    """Seed of one role (``deal``, ``score``, ``reference/random``...) in an episode of a run.

    It depends on nothing but its arguments, so episodes can be played in any order, and what one
    role draws never moves what another one gets.
    """
    return np.random.SeedSequence(run, spawn_key=(episode, zlib.crc32(role.encode()), *index))


class Episode:
    """The state of one episode: B contexts, and the masks of those that were masked.

    Args:
        world: deals the episode.
        run: seed of its run.
        index: of the episode in its run.
        budget: share of the real tokens of a context that may be masked.
        weights: key of the language-model weights that its jobs start from.

    Attributes:
        deal: what the world dealt.
        masks: of the contexts masked so far, int8 (L,) each.
        dropped, over_budget: bits of the actions so far that the rules did not allow.
    """

    def __init__(self, world: World, run: int, index: int, *, budget: float, weights: str) -> None:
        self._key = run, index
        self._weights = weights
        self.deal = world.deal(self.seed("deal"))
        self._batch = spaces.pad_contexts(
            self.deal.contexts,
            self.deal.context_ids,
            world.tokenizer,
            length=world.max_length,
            budget=budget,
        )
        self.masks: list[np.ndarray] = []
        self.dropped = self.over_budget = 0

    @property
    def left(self) -> int:
        """Contexts that are not masked yet."""
        return len(self.deal.contexts) - len(self.masks)

    def seed(self, role: str, *index: int) -> np.random.SeedSequence:
        """Of what a role draws in this episode."""
        return episode_seed(*self._key, role, *index)

    def int_seed(self, role: str) -> int:
        return int(self.seed(role).generate_state(1)[0])

    def observation(self, row: int | None = None) -> Observation:
        """Of one context: by default the one to mask next, or the last one when all are masked."""
        if row is None:
            row = min(len(self.masks), len(self.deal.contexts) - 1)
        return spaces.observation_row(self._batch, row)

    def observations(self) -> Observation:
        """Of all contexts, with a leading B, in fresh arrays."""
        return {name: values.copy() for name, values in self._batch.items()}

    def job(
        self, masks_BL: np.ndarray | None, settings: AdaptationSettings, keep: bool = False
    ) -> ScoreJob:
        """The score job of masks, int8 (B, L); ``None`` leaves further pre-training out."""
        return ScoreJob(
            contexts=self.deal.contexts,
            masks=None if masks_BL is None else spaces.cut(masks_BL, self.deal.contexts),
            train=self.deal.train,
            score=self.deal.score,
            settings=settings,
            seed=self.int_seed("score"),
            weights=self._weights,
            keep_weights=keep,
        )
