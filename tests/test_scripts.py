"""The two scripts: the original's argument order becomes flags, wrong counts become a sentence."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path):
    """Runs a script with a python that has nmg and prints what it was asked to do."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$1" = -P ] && exit 0\necho "$@"\n')
    fake.chmod(0o755)

    def script(name, *arguments, code=0):
        environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [ROOT / name, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout.strip() if code == 0 else done.stderr.strip()

    return script


def test_without_arguments_the_testbed_is_trained(run):
    assert run("run_train.sh") == "-m nmg train"
    assert run("run_train.sh", "--episodes", "3") == "-m nmg train --episodes 3"


def test_the_originals_training_arguments_become_flags(run):
    given = run("run_train.sh", "20201120", "qa", "squad", "bert", "0")
    expected = "--name 20201120 --task qa --dataset squad --model bert --device cuda:0"
    assert given == f"-m nmg train {expected}"
    given = run("run_train.sh", "r", "glue", "chemprot", "bert", "--preset", "paper")
    expected = "--name r --task classification --dataset chemprot --model bert --device cpu"
    assert given == f"-m nmg train {expected} --preset paper"
    assert "--device cpu" in run("run_train.sh", "r", "qa", "squad", "bert", "cpu")
    assert "--device cpu" in run("run_train.sh", "r", "qa", "squad", "bert", "")


def test_the_originals_testing_arguments_become_flags(run):
    arguments = [
        "20201120",
        "output/squad/bert/20201120_neural",
        "qa",
        "squad",
        "bert",
        "0",
        "1",
        "50",
        "3",
        "0.05",
    ]
    assert run("run_test.sh", *arguments, "--seeds", "5") == (
        "-m nmg test --policy output/squad/bert/20201120_neural --task qa --dataset squad "
        "--model bert --device cuda:0 --workers 1 --start 50 --pretrain-epochs 3 --budget 0.05 "
        "--name 20201120 --seeds 5"
    )


def test_placements_of_generation_are_trained_and_compared(run):
    given = run("run_train.sh", "r", "generation", "multi30k", "models/m", "1", "--budget", "0.5")
    expected = "--name r --task generation --dataset multi30k --model models/m --device cuda:1"
    assert given == f"-m nmg train {expected} --budget 0.5"
    for checkpoint, placement in (("output/a_neural", "uniform output/a_neural"), ("-", "uniform")):
        arguments = ["generation", "multi30k", "models/m", "cpu", "1", "0", "3", "0.5"]
        given = run("run_test.sh", "r", checkpoint, *arguments, "--seeds", "2")
        assert given == (
            "-m nmg generation --name r --dataset multi30k --model models/m --device cpu "
            f"--placement {placement} --pretrain-epochs 3 --k 0.5 --seeds 2"
        )


def test_the_last_testbed_run_is_tested_without_arguments(run, tmp_path):
    assert "run ./run_train.sh first" in run("run_test.sh", code=2)
    (tmp_path / "output/testbed/tiny/a_neural").mkdir(parents=True)
    given = run("run_test.sh", "--seeds", "2")
    assert given.startswith("-m nmg test --task testbed --policy output/testbed/tiny/a_neural")


@pytest.mark.parametrize("script", ["run_train.sh", "run_test.sh"])
def test_wrong_counts_and_help(run, script):
    assert "got 2 arguments" in run(script, "one", "two", code=2)
    assert script in run(script, "--help")


def test_every_flag_of_the_scripts_exists():
    from nmg.config import TestingConfig, TrainingConfig
    from nmg.options import leaves

    for name in ("task", "dataset", "model", "device"):
        assert name in leaves(TrainingConfig)
    for name in ("task", "dataset", "model", "device", "workers", "pretrain_epochs", "budget"):
        assert name in leaves(TestingConfig)


def test_pinned_versions_satisfy_what_setup_asks_for():
    from packaging.requirements import Requirement

    pins = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert pins["torch"] == "2.13.0"
    wanted = re.findall(r'"([\w.-]+>=[\d.]+)"', (ROOT / "setup.py").read_text())
    assert len(wanted) > 10
    for text in wanted:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        # Ray is no part of the tested environment.
        assert name == "ray" or requirement.specifier.contains(pins[name])
