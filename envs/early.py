"""Jobs started before their episode, so that no worker waits for the learner."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from envs.adaptation.jobs import Score, ScoreJob
from envs.references import NONE, Reference, UniformRandom

if TYPE_CHECKING:
    from envs.masking_env import MaskingEnv


def start_early(env: MaskingEnv) -> None:
    """Announce the next episode's jobs that wait for no learner's masks.

    Three jobs an episode (player, opponent, random) leave one of two workers idle a quarter of the
    time. An executor with a method ``foresee(job)`` may run what it is told of and find it again by
    content when the job is submitted; results cannot depend on it. In continual mode the weights of
    the next episode are not known yet.
    """
    foresee = getattr(env.executor, "foresee", None)
    fixed: dict[str, Reference] = {
        name: policy
        for name, policy in env.references.items()
        if policy == NONE or isinstance(policy, UniformRandom)
    }
    if foresee is None or env.continual or not fixed:
        return
    following = copy.copy(env)  # whatever it is, its jobs are made as its own
    following.executor = _Announcing(foresee)
    following.references = fixed
    following.render_mode = None
    following._pending = {}  # a reset cancels what is pending
    following.reset(seed=env.run_seed, options={"episode": env.episode_index + 1})
    following.submit_references()


class _Announcing:
    """An executor that runs nothing."""

    def __init__(self, foresee: Callable[[ScoreJob], None]) -> None:
        self._foresee = foresee

    def submit(self, job: ScoreJob) -> Future[Score]:
        self._foresee(job)
        return Future()
