"""Score maskings on the same deals with the same seeds, outside of any learning."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

import numpy as np

from envs import spaces
from envs.adaptation.jobs import AdaptationSettings, Executor, Score, ScoreJob
from envs.references import Policy, reseed
from envs.text.corpus import Context
from envs.world import Deal, World

INFORMATIVE = "informative"
"""Share of the masked tokens that are informative, 0 to 1, where that is known (the testbed)."""


class Greedy:
    """A learned policy asked for masks that stay the same: its best tokens, or one draw for a
    context.

    Args:
        policy: asked.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        return self.policy.predict(observation, state, episode_start, deterministic=True)


@runtime_checkable
class Rehearsed(Protocol):
    """A masking that learns from the model's losses on the way (nmg/online.py)."""

    def rehearse(
        self,
        contexts: Sequence[Context],
        settings: AdaptationSettings,
        *,
        budget: float,
        seed: int,
    ) -> list[np.ndarray]: ...


Masking = Policy | Rehearsed | None
"""How contexts are masked; ``None``: not at all, there is no further pre-training."""


def seed_of(run: int, role: str, number: int) -> np.random.SeedSequence:
    """Seed of a role in comparison ``number`` of run ``run``, apart from all training episodes."""
    return np.random.SeedSequence(run, spawn_key=(0x7E57, zlib.crc32(role.encode()), number))


def masking_job(
    world: World,
    deal: Deal,
    masking: Masking,
    *,
    name: str,
    budget: float,
    settings: AdaptationSettings,
    run: int,
    number: int,
) -> ScoreJob:
    """The score job of a masking on a deal.

    Args:
        world: the deal's.
        deal: what to mask, train and score on.
        masking: how to mask.
        name: of the masking; its draws are seeded by it.
        budget: share of the tokens of a context that may be masked.
        settings: how masks become a score.
        run: seed of the comparison.
        number: of the deal; with ``run`` it seeds everything, the same for every masking.
    """
    masks = None
    seed = seed_of(run, f"mask/{name}", number)
    if isinstance(masking, Rehearsed):
        masks = masking.rehearse(
            deal.contexts, settings, budget=budget, seed=int(seed.generate_state(1)[0])
        )
    elif masking is not None:
        masks = _policy_masks(world, deal, masking, budget, seed)
    return ScoreJob(
        contexts=deal.contexts,
        masks=masks,
        train=deal.train,
        score=deal.score,
        settings=settings,
        seed=int(seed_of(run, "score", number).generate_state(1)[0]),
    )


def observe(world: World, deal: Deal, budget: float) -> dict[str, np.ndarray]:
    """All contexts of a deal as observations with a leading B."""
    return spaces.pad_contexts(
        deal.contexts, deal.context_ids, world.tokenizer, length=world.max_length, budget=budget
    )


def _policy_masks(
    world: World, deal: Deal, policy: Policy, budget: float, seed: np.random.SeedSequence
) -> list[np.ndarray]:
    observation = observe(world, deal, budget)
    reseed(policy, int(seed.generate_state(1)[0]))
    chosen_BL, _ = policy.predict(observation, deterministic=False)
    masks_BL = spaces.allowed_masks(chosen_BL, observation, np.random.default_rng(seed))
    return spaces.cut(masks_BL, deal.contexts)


def evaluate(
    world: World,
    deals: Sequence[Deal],
    maskings: Mapping[str, Masking],
    executor: Executor,
    *,
    budget: float,
    settings: AdaptationSettings,
    run: int,
) -> dict[str, list[dict[str, float]]]:
    """Score every masking on every deal.

    Args:
        world: of the deals.
        deals: the pairs of the comparison.
        maskings: name -> policy or ``None``.
        executor: runs the jobs; all are submitted before the first is waited for.
        budget: see `masking_job`, as ``settings`` and ``run``.
        settings: of the jobs.
        run: seed of the comparison.

    Returns:
        Masking -> the metrics of each deal, and the share of informative tokens where known.
    """
    running: dict[str, list[tuple[ScoreJob, Future[Score]]]] = {}
    # A rehearsal trains a model here: the workers have something to do meanwhile.
    for name in sorted(maskings, key=lambda name: isinstance(maskings[name], Rehearsed)):
        running[name] = []
        for number, deal in enumerate(deals):
            job = masking_job(
                world,
                deal,
                maskings[name],
                name=name,
                budget=budget,
                settings=settings,
                run=run,
                number=number,
            )
            running[name].append((job, executor.submit(job)))
    return {
        name: [
            {**future.result().metrics, **_informative(job, deal)}
            for deal, (job, future) in zip(deals, running[name], strict=True)
        ]
        for name in maskings
    }


def _informative(job: ScoreJob, deal: Deal) -> dict[str, float]:
    if deal.informative is None:
        return {}
    return {INFORMATIVE: math.nan if job.masks is None else deal.informative_share(job.masks)}
