"""Where the learners play, and the held-out domains on which all of them are judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from envs.adaptation.executor import SerialExecutor
from envs.adaptation.jobs import Executor, Score, ScoreJob
from envs.masking_env import MaskingEnv
from envs.references import UniformRandom
from envs.testbed import best_mask, settings_named
from envs.world import Deal
from nmg.assembly import generated_setup
from nmg.evaluation import Greedy, evaluate, observe, seed_of

METRIC = "nll"
DRAWS = 3
"""Masks drawn of random and of best on every held-out domain: one draw of both is noisy, and all
learners are measured by them."""


class Unpaired:
    """Gives every job a seed of its own, as if nobody had thought of sharing them."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def submit(self, job: ScoreJob) -> Future[Score]:
        digest = hashlib.blake2b(job.key.encode(), digest_size=4).digest()
        return self._inner.submit(replace(job, seed=int.from_bytes(digest, "little") >> 1))


class Field:
    """A setting of the testbed: environments to learn in, and fixed held-out domains.

    The held-out domains have new words that no training episode has. Random and best masks are
    scored on them once; every policy is scored with the same seeds.

    Args:
        setting: of the testbed.
        deals: held-out domains.
        folder: where the scores of random and best masks are kept.
    """

    def __init__(self, setting: str, deals: int, folder: Path) -> None:
        self.setting, self.folder = setting, folder
        self.settings = settings_named(setting)
        self.training = generated_setup(setting)
        self.held_out = generated_setup(setting, "test")
        world: Any = self.held_out.world
        self.deals: list[Deal] = [world.deal(seed_of(0, "learning", n)) for n in range(deals)]

    def environment(
        self,
        *,
        references: Mapping[str, str] | None = None,
        paired: bool = True,
        finetune_seeds: int | None = None,
    ) -> MaskingEnv:
        """The training environment.

        Args:
            references: of the environment; random by default.
            paired: whether agent and references share their seeds.
            finetune_seeds: averaged into a score, instead of the setting's.
        """
        on, settings = self.training, self.settings.adaptation
        inner = SerialExecutor(on.scorer)
        if finetune_seeds is not None:
            settings = replace(settings, finetune_seeds=finetune_seeds)
        return MaskingEnv(
            on.world,
            inner if paired else Unpaired(inner),
            settings=settings,
            budget=self.settings.budget,
            reward="nll_gain" if references is None or references else _own_likelihood,
            references={"random": "random"} if references is None else references,
            headline=on.task.headline,
            higher_is_better=on.task.higher_is_better,
        )

    @cached_property
    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of random and of best masks on the held-out domains, one a domain."""
        path = self.folder / f"reference-{self.setting}-{len(self.deals)}.json"
        if not path.exists():
            world: Any = self.held_out.world
            maskings = {f"random {n}": UniformRandom() for n in range(DRAWS)}
            maskings |= {f"best {n}": best_mask(world) for n in range(DRAWS)}
            path.write_text(json.dumps(self._scores(maskings), indent=1), encoding="utf-8")
        scores = json.loads(path.read_text(encoding="utf-8"))
        random, best = (
            np.mean([scores[f"{kind} {n}"] for n in range(DRAWS)], axis=0)
            for kind in ("random", "best")
        )
        return random, best

    def closed(self, policy: Any) -> float:
        """Share of the gap between random and best mask that a policy closes by its score."""
        random, best = self.reference
        mine = np.array(self._scores({"policy": Greedy(policy)})["policy"])
        return float((random - mine).mean() / (random - best).mean())

    def informative(self, policy: Any) -> float:
        """Share of informative tokens among those that a policy masks; nothing is scored."""
        world: Any = self.held_out.world
        hits = total = 0
        for deal in self.deals:
            seen = observe(world, deal, self.settings.budget)
            masks_BL, _ = Greedy(policy).predict(seen)
            chosen_BL = masks_BL.astype(bool) & seen["maskable"].astype(bool)
            hits += int(world.informative_V[seen["input_ids"]][chosen_BL].sum())
            total += int(chosen_BL.sum())
        return hits / max(total, 1)

    def _scores(self, maskings: Mapping[str, Any]) -> dict[str, list[float]]:
        scores = evaluate(
            self.held_out.world,
            self.deals,
            maskings,
            SerialExecutor(self.held_out.scorer),
            budget=self.settings.budget,
            settings=self.settings.adaptation,
            run=0,
        )
        return {name: [pair[METRIC] for pair in pairs] for name, pairs in scores.items()}


def _own_likelihood(scores: Mapping[str, Score], names: Any) -> float:
    """The reward where there is nobody to compare with."""
    return -scores["agent"].metrics[METRIC]
