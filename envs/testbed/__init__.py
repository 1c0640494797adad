"""A generated domain in which masks matter and the best mask is known.

Further pre-training on a deal's documents teaches what topic its new keywords belong to, if
keywords are masked: a known keyword in sight tells the topic of a masked new one, and the loss of a
masked known one teaches the new ones in sight. Masking words of no topic teaches nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from envs.adaptation.jobs import AdaptationSettings
from envs.testbed.domain import Family, Vocabulary
from envs.testbed.settings import SETTINGS, LanguageSettings, TestbedSettings, settings_named
from envs.testbed.world import (
    KnownMask,
    TestbedWorld,
    TopicClassification,
    best_mask,
    worst_mask,
)

if TYPE_CHECKING:
    from envs.adaptation.executor import SerialExecutor
    from envs.models.language_model import LanguageModel

__all__ = [
    "SETTINGS",
    "KnownMask",
    "LanguageSettings",
    "Testbed",
    "TestbedSettings",
    "TestbedWorld",
    "best_mask",
    "build_testbed",
    "settings_named",
    "worst_mask",
]


@dataclass(frozen=True, eq=False)
class Testbed:
    """A world and what is needed to score masks in it.

    Attributes:
        world: deals domains.
        language_model: trained on the world's known words.
        task: topic classification.
        settings: how masks become a score.
        budget: share of the tokens of a context that may be masked.
    """

    __test__ = False  # for pytest: it is no test

    world: TestbedWorld
    language_model: LanguageModel
    task: TopicClassification
    settings: AdaptationSettings
    budget: float

    @cached_property
    def executor(self) -> SerialExecutor:
        """Runs score jobs on this language model."""
        from envs.adaptation.executor import SerialExecutor
        from envs.adaptation.scorer import Scorer

        return SerialExecutor(Scorer(self.language_model, self.task))


def build_testbed(
    setting: str | TestbedSettings = "standard",
    *,
    family: Family = "train",
    cache_dir: str | Path | None = None,
) -> Testbed:
    """Make a testbed; the first time, its language model is trained, in under a minute.

    Args:
        setting: name of a setting (see ``SETTINGS``), or one's own.
        family: ``test`` gives domains of other new keywords, to measure generalisation.
        cache_dir: where language models are kept; ``NMG_CACHE`` or ``~/.cache/nmg`` if not given.

    Raises:
        ValueError: if the setting or the family is unknown.
    """
    settings = settings_named(setting) if isinstance(setting, str) else setting
    vocabulary = Vocabulary(settings.language)
    world = TestbedWorld(settings, vocabulary, family)
    task = TopicClassification(world.tokenizer, world.labels, max_length=settings.words + 2)

    from envs.testbed.language_model import cached_language_model

    language_model = cached_language_model(vocabulary, cache_dir)
    return Testbed(world, language_model, task, settings.adaptation, settings.budget)
