"""Settings: precedence, presets that inherit, differences only, and errors that name the key."""

import argparse
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import yaml

from agents.settings import AgentSettings
from nmg.config import TestingConfig, TrainingConfig
from nmg.config_files import comparison_file, training_file
from nmg.generation_config import GenerationConfig
from nmg.options import (
    PRESETS,
    ConfigError,
    add_flags,
    build,
    coerce,
    differences,
    flatten,
    given_flags,
    leaves,
    preset_names,
    read_preset,
    read_settings,
)
from nmg.resolution import resolve_testing, resolve_training
from nmg.run_folders import write_settings


def parsed(*arguments: str, cls: type = TrainingConfig) -> dict:
    parser = argparse.ArgumentParser()
    add_flags(parser, cls)
    return given_flags(cls, parser.parse_args(arguments))


def test_flags_override_file_overrides_preset_overrides_defaults():
    config = resolve_training(
        parsed("--budget", "0.2"), "squad-bert", {"budget": 0.1, "contexts": 7, "seed": 3}
    )
    assert config.episode.budget == 0.2
    assert config.episode.contexts == 7
    assert config.adaptation.pretrain_lr == 2e-5
    assert config.agent.replay_capacity == 50_000
    assert config.data.strict is False


@pytest.mark.parametrize("cls", [TrainingConfig, TestingConfig])
def test_every_setting_is_a_flag_and_survives_yaml(cls, tmp_path):
    defaults = build(cls, {})
    arguments = []
    for leaf in leaves(cls).values():
        value = flatten(defaults)[leaf.name]
        if leaf.type is bool:
            arguments.append(leaf.flag if value else leaf.flag.replace("--", "--no-", 1))
        else:
            given = value if isinstance(value, list) else ["none" if value is None else str(value)]
            arguments += [leaf.flag, *given]
    assert build(cls, parsed(*arguments, cls=cls)) == defaults
    write_settings(tmp_path, defaults)
    assert build(cls, read_settings(tmp_path / "resolved.yaml")) == defaults
    assert read_settings(tmp_path / "config.yaml") == {}


def test_config_yaml_holds_differences_only(tmp_path):
    config = resolve_training({"budget": 0.2}, "testbed")
    assert differences(config)["budget"] == 0.2
    assert "seed" not in differences(config)
    write_settings(tmp_path, config)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == differences(config)
    assert resolve_training(read_settings(tmp_path / "config.yaml")) == config


def test_our_own_settings_are_all_explained():
    for cls in (TrainingConfig, TestingConfig):
        for leaf in leaves(cls).values():
            assert leaf.doc, leaf.name


def test_presets_inherit_and_all_of_them_load():
    assert read_preset("chemprot-distilbert")["replay_start"] == 500
    assert read_preset("chemprot-distilbert")["model"] == "distilbert"
    assert read_preset("squad-distilbert")["test"] == {
        "finetune_epochs": 2,
        "pretrain_batch": 8,
        "finetune_batch": 8,
    }
    for name in preset_names():
        resolve_training({}, name)
        resolve_testing({}, name)


def test_the_paper_preset_follows_the_task():
    assert resolve_training({"task": "qa"}, "paper").agent.replay_start == 2000
    agent = resolve_training({"task": "qa"}, "paper").agent
    assert agent.metric == "exact_position"  # the paper's reward is no metric of its tables
    assert agent == replace(AgentSettings.PAPER, metric=agent.metric)
    paper = resolve_training({"task": "classification"}, "paper")
    assert (paper.agent.replay_start, paper.adaptation.finetune_epochs) == (500, 5)
    assert resolve_testing({"task": "qa"}, "paper").adaptation.finetune_epochs == 2
    with pytest.raises(ConfigError, match="testbed"):
        resolve_training({}, "paper")


def test_meta_testing_takes_data_and_budget_from_the_policys_run_but_not_the_amounts():
    trained = flatten(resolve_training({"budget": 0.15, "contexts": 9, "model": "bert"}))
    config = resolve_testing({}, trained=trained)
    assert (config.comparison.budget, config.data.model) == (0.15, "bert")
    assert config.comparison.contexts == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budgte": 0.1}, "did you mean 'budget'"),
        ({1: 0.1}, "there is no setting 1"),
        ({"episodes": float("inf")}, "episodes is inf; expected a whole number"),
        ({"budget": 1.5}, "budget is 1.5"),
        ({"budget": "much"}, "expected a number"),
        ({"contexts": 1.5}, "expected a whole number"),
        ({"contexts": True}, "expected a whole number"),
        ({"task": "poetry"}, "must be one of testbed, qa, classification"),
        ({"strict": "yes"}, "expected true or false"),
        ({"episodes": 0}, "at least 1"),
        ({"corpus": "a.txt"}, "corpus is a.txt, but the task is testbed; only qa and"),
        ({"task": "generation", "labelled": 3}, "labelled is 3, but the task is generation"),
        ({"task": "qa", "labelled": 0}, "labelled is 0; it must be at least 1"),
    ],
)
def test_bad_values_are_one_sentence(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        resolve_training(values)
    assert "\n" not in str(error.value)


def test_a_file_may_build_on_a_preset_or_on_a_file_beside_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: squad-bert\nbudget: 0.5")
    (tmp_path / "other.yaml").write_text("base: mine.yaml\nepisodes: 3")
    preset = read_preset("squad-bert")
    assert read_settings(tmp_path / "other.yaml") == {**preset, "budget": 0.5, "episodes": 3}


def test_a_file_means_what_a_preset_of_the_same_words_means(tmp_path):
    """Whatever the program: a preset's file is taken as the preset is, all but what is its own."""
    for name in preset_names():
        path = PRESETS / f"{name}.yaml"
        assert resolve_training(training_file(path)) == resolve_training({}, name)
        compared = comparison_file(path, TestingConfig)
        assert resolve_testing({}, None, compared) == resolve_testing({}, name)
    placed = build(GenerationConfig, comparison_file(PRESETS / "generation.yaml", GenerationConfig))
    assert (placed.data.dataset, placed.comparison.contexts) == ("multi30k", 0)
    with pytest.raises(ConfigError, match=r"squad-bert\.yaml is for the task qa"):
        comparison_file(PRESETS / "squad-bert.yaml", GenerationConfig)
    path = tmp_path / "compare.yaml"
    path.write_text("contexts: 7\nseeds: 3\nbudget: 0.1")  # nothing here is of meta-training alone
    assert comparison_file(path, TestingConfig) == {"contexts": 7, "seeds": 3, "budget": 0.1}


@pytest.mark.parametrize("line", ["budgte: 0.1", "budget: much", "1: 2"])
def test_a_setting_that_cannot_be_is_told_with_its_file(tmp_path, line):
    path = tmp_path / "mine.yaml"
    path.write_text(line)
    for read in (training_file, partial(comparison_file, cls=TestingConfig)):
        with pytest.raises(ConfigError, match=r"mine\.yaml: "):
            read(path)


def test_bad_files_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no settings file"):
        read_settings(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(ConfigError, match="not valid YAML at line"):
        read_settings(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="holds a list"):
        read_settings(tmp_path / "list.yaml")
    (tmp_path / "nothing.yaml").write_text("[]")
    with pytest.raises(ConfigError, match="holds a list"):
        read_settings(tmp_path / "nothing.yaml")
    (tmp_path / "circle.yaml").write_text("base: circle.yaml")
    with pytest.raises(ConfigError, match="leads back to itself"):
        read_settings(tmp_path / "circle.yaml")
    with pytest.raises(ConfigError, match="did you mean 'squad-bert'"):
        read_preset("squad-brt")


def test_coercion_of_lists_choices_and_none():
    assert coerce("x", tuple[int, ...], ["1", 2]) == (1, 2)
    assert coerce("x", tuple[str, ...], "one") == ("one",)
    assert coerce("x", int | None, "none") is None
    assert coerce("x", float, "2e-5") == 2e-5
    with pytest.raises(ConfigError, match="one of a, b"):
        coerce("x", Literal["a", "b"], "c")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pretrain_lr", -1),
        ("finetune_lr", float("inf")),
        ("pretrain_epochs", -1),
        ("weight_decay", -1),
        ("clip", 0),
        ("heads", 0),
        ("width", -3),
        ("learning_rate", float("nan")),
        ("lean", float("nan")),
        ("max_grad_norm", 0),
        ("importance_limit", 0),
        ("replay_start", -1),
        ("continual_reset_every", 0),
        ("job_timeout", -1),
        ("seed", 2**32),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_made(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        resolve_training({name: value})
