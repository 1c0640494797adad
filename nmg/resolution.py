"""Which value of a setting holds: of a flag, a file, a policy's run, a preset, or the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nmg.config import DataConfig, TaskName, TestingConfig, TrainingConfig
from nmg.options import ConfigError, build, coerce, leaves, read_preset

PAPER = {"qa": "squad-bert", "classification": "chemprot-bert"}
"""The preset that ``--preset paper`` means for a task."""
DEFAULT = {name: name for name in ("testbed", "qa", "classification", "generation")}
"""The preset of a task when none is asked for."""


def resolve_training(
    flags: Mapping[str, Any], preset: str | None = None, from_file: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Defaults < preset < file < flags.

    Raises:
        ConfigError: on an unknown name or a value that cannot be.
    """
    given = dict(from_file or {}) | dict(flags)
    named = preset_settings(preset, given.get("task"))
    named.pop("test", None)
    return build(TrainingConfig, testbed_settings(named | given) | named | given)


def resolve_testing(
    flags: Mapping[str, Any],
    preset: str | None = None,
    from_file: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
) -> TestingConfig:
    """Defaults < preset < settings of the policy's run < the preset's ``test`` < file < flags.

    Presets and policies' runs describe meta-training; what they say about data, budget and
    adaptation holds for meta-testing too, how much there is in an episode does not.

    Raises:
        ConfigError: on an unknown name or a value that cannot be.
    """
    given = dict(from_file or {}) | dict(flags)
    named = preset_settings(preset, given.get("task", (trained or {}).get("task")))
    own = named.pop("test", {})
    named = testbed_settings(named | given) | named
    shared = {
        leaf.name
        for leaf in leaves(TestingConfig).values()
        if leaf.part != "comparison" or leaf.name == "budget"
    }
    inherited = {k: v for k, v in {**named, **(trained or {})}.items() if k in shared}
    return build(TestingConfig, inherited | own | given)


def preset_settings(name: str | None, task: str | None) -> dict[str, Any]:
    """Settings of a preset; ``paper`` and ``default`` depend on the task.

    Raises:
        ConfigError: if there is no such preset.
    """
    task = coerce("task", TaskName, task or DataConfig.task)
    by_task = {None: DEFAULT, "default": DEFAULT, "paper": PAPER}.get(name)
    if by_task is None:
        return read_preset(str(name))
    if task not in by_task:
        raise ConfigError(
            f"There is no preset {name or 'default'!r} for the task {task!r}; "
            f"there is for {', '.join(by_task)}."
        )
    return read_preset(by_task[task])


def testbed_settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What the chosen setting of the testbed says of budget and adaptation; nothing for text."""
    if chosen.get("task", DataConfig.task) != "testbed":
        return {}
    from envs.testbed.settings import settings_named

    settings = settings_named(setting_name(chosen.get("dataset", DataConfig.dataset)))
    return {"budget": settings.budget, **asdict(settings.adaptation)}


def setting_name(dataset: str) -> str:
    """The testbed's name of a data set; ``testbed`` is the standard setting."""
    return "standard" if dataset == "testbed" else dataset
