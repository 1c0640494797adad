"""nmg train: same seed same bytes, resumed equals uninterrupted, and what the run folder holds."""

import errno
import json
import math
import os
import re
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tiny_run import train_arguments, write_model, write_texts

from agents import actor_critic
from agents.rollouts import Rollouts
from envs.adaptation.scorer import Scorer
from nmg import forecast
from nmg.checkpoint import (
    checkpoints,
    chosen_checkpoint,
    described_choice,
    read_about,
    write_checkpoint,
)
from nmg.cli import main
from nmg.options import read_settings
from nmg.run_log import RunLog, read_records
from nmg.training_callback import Validation


@pytest.fixture
def arguments(tmp_path, tiny_masked_lm, tiny_tokenizer):
    data = write_texts(tmp_path / "data")
    model = write_model(tmp_path / "model", tiny_masked_lm, tiny_tokenizer)
    return train_arguments(data, model)


def metrics(run: Path) -> bytes:
    return (run / "metrics.jsonl").read_bytes()


def test_a_run_leaves_everything_its_folder_promises(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    more = ["--final-episodes", "2", "--rivals", "none", "idf"]
    assert main([*arguments, *more, "--output", str(run)]) == 0
    printed = capsys.readouterr().out
    for word in ("Forecast:", "policy: shuffled", "verdict", "chosen on training data", "Took"):
        assert word in printed
    records = read_records(run / "metrics.jsonl")
    assert [record["episode"] for record in records] == [0, 1, 2, 3]
    assert set(records[0]["score"]) == {"agent", "random", "opponent"}
    assert len(read_records(run / "times.jsonl")) == 4
    assert [path.name for path in checkpoints(run)] == ["000000", "000002", "000004"]
    assert read_settings(run / "config.yaml")["contexts"] == 6
    assert "clip" not in read_settings(run / "config.yaml")
    assert read_settings(run / "resolved.yaml")["clip"] == 1.0
    results = json.loads((run / "results.json").read_text())
    names = [row["masking"] for row in results["rows"]]
    assert names == ["policy", "random", "policy: untrained", "policy: shuffled", "none", "idf"]
    assert "<svg" in (run / "report.html").read_text()

    assert main([*arguments, "--output", str(run)]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize("continual", [False, True])
def test_same_seed_same_bytes_and_resumed_equals_uninterrupted(arguments, tmp_path, continual):
    if continual:
        arguments = [*arguments, "--continual", "--reward", "sign"]
    whole, again, stopped = (tmp_path / name for name in ("whole", "again", "stopped"))
    assert main([*arguments, "--output", str(whole)]) == 0
    assert main([*arguments, "--output", str(again)]) == 0
    assert metrics(whole) == metrics(again)

    assert main([*arguments, "--episodes", "2", "--output", str(stopped)]) == 0
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"episode": 2, "reward": 99}\n{"epis')  # what a kill may leave behind
    assert main(["train", "--resume", str(stopped), "--episodes", "4"]) == 0
    assert metrics(whole) == metrics(stopped)
    policies = [
        (run / "checkpoints/000004/policy.safetensors").read_bytes() for run in (whole, stopped)
    ]
    assert policies[0] == policies[1]


def test_a_resumed_run_foresees_what_is_left_and_reports_all_of_it(
    arguments, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    more = ["--episodes", "3", "--final-episodes", "2", "--rivals", "none", "idf"]
    submitted, probed = [], []
    score, probe = Scorer.__call__, forecast.probe
    monkeypatch.setattr(
        Scorer, "__call__", lambda self, job: submitted.append(job) or score(self, job)
    )

    def probing(*given):
        rates = probe(*given)
        probed.append(len(submitted))
        return rates

    monkeypatch.setattr(forecast, "probe", probing)

    def foreseen() -> int:
        told = capsys.readouterr().out
        return int(re.search(r"Forecast: (\d+) score jobs", told).group(1))

    assert main([*arguments, *more, "--output", str(run)]) == 0
    assert foreseen() == len(submitted) - probed[-1]  # with the validation after the last episode
    submitted.clear()
    assert main(["train", "--resume", str(run)]) == 0
    assert "Forecast: nothing is left to compute" in capsys.readouterr().out
    assert (len(submitted), len(probed)) == (0, 1)

    times = [json.dumps({"episode": n, "seconds": 1000.0}) for n in range(3)]
    (run / "times.jsonl").write_text("\n".join(times) + "\n")
    assert main(["train", "--resume", str(run), "--episodes", "4"]) == 0
    # An episode, its validation, and what depends on the policy; random and rivals are remembered.
    assert foreseen() == 3 + 1 + 3 * 2
    assert "50 min" in (run / "report.html").read_text()


def test_an_interrupted_run_says_how_to_go_on(arguments, tmp_path, capsys, monkeypatch):
    write = RunLog.write

    def interrupted(self, episode, record, seconds):
        if episode == 3:
            raise KeyboardInterrupt
        write(self, episode, record, seconds)

    monkeypatch.setattr(RunLog, "write", interrupted)
    run = tmp_path / "run"
    assert main([*arguments, "--output", str(run)]) == 130
    assert f"nmg train --resume {run}" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["train", "--resume", str(run)]) == 0
    assert len(read_records(run / "metrics.jsonl")) == 4


@pytest.mark.parametrize("what", ["policy", "scores"])
def test_a_full_disk_is_told_with_the_folder_and_how_to_go_on(
    what, arguments, tmp_path, capsys, monkeypatch
):
    write_text = Path.write_text

    def full(*_):
        raise SafetensorError("Error: I/O error: No space left on device (os error 28)")

    def full_of_scores(path, *given, **options):
        if "scores" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *given, **options)

    if what == "policy":
        monkeypatch.setattr("agents.files.write_tensors", full)
    else:
        monkeypatch.setattr(Path, "write_text", full_of_scores)
    run = tmp_path / "run"
    assert main([*arguments, "--output", str(run)]) == 2
    told = capsys.readouterr().err
    assert f"{run} cannot be written: no space" in told
    assert f"go on with: nmg train --resume {run}" in told


def test_a_continual_run_keeps_no_more_weights_than_it_needs(arguments, tmp_path, monkeypatch):
    """Those of the last checkpoint, to go on from, and the newest."""
    write, held = RunLog.write, []
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = [*arguments, "--continual", "--checkpoint-every", "4", "--episodes", "6"]
    assert main([*arguments, "--output", str(whole)]) == 0

    def interrupted(self, episode, record, seconds):
        held.append(len(list((run / "weights").iterdir())))
        if episode == 5:
            raise KeyboardInterrupt
        write(self, episode, record, seconds)

    monkeypatch.setattr(RunLog, "write", interrupted)
    assert main([*arguments, "--output", str(run)]) == 130
    # An episode is written down before what it no longer needs is deleted.
    assert held == [1, 2, 2, 2, 2, 3]
    monkeypatch.undo()
    assert main(["train", "--resume", str(run)]) == 0
    assert metrics(run) == metrics(whole)


def test_a_run_that_is_stopped_before_its_first_checkpoint_goes_on(
    arguments, tmp_path, monkeypatch
):
    write, whole, run = RunLog.write, tmp_path / "whole", tmp_path / "run"
    arguments = [*arguments, "--checkpoint-every", "4"]
    assert main([*arguments, "--output", str(whole)]) == 0

    def interrupted(self, episode, record, seconds):
        if episode == 2:
            raise KeyboardInterrupt
        write(self, episode, record, seconds)

    monkeypatch.setattr(RunLog, "write", interrupted)
    assert main([*arguments, "--output", str(run)]) == 130
    monkeypatch.undo()
    assert [path.name for path in checkpoints(run)] == ["000000"]
    assert main(["train", "--resume", str(run)]) == 0
    assert metrics(run) == metrics(whole)


def test_a_run_whose_scores_are_no_numbers_learns_nothing_and_goes_on(
    arguments, tmp_path, monkeypatch
):
    read = actor_critic.read_runs

    def diverged(info, episode, *rest):
        runs = read(info, episode, *rest)
        if info["episode_index"] == 1:
            runs.scores["opponent"] = math.nan
        return runs

    monkeypatch.setattr(actor_critic, "read_runs", diverged)
    with pytest.warns(UserWarning, match="a score is no number"):
        assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    records = read_records(tmp_path / "run/metrics.jsonl")
    assert math.isfinite(records[-1]["agent"]["critic/noise"])


def test_continual_policies_are_chosen_by_what_testing_shows_them(arguments, tmp_path, monkeypatch):
    """Further pre-training starts from the model itself there, and so does what a policy sees."""
    seen = {"validation": [], "episodes": []}
    measure, act = Validation.__call__, Rollouts.mask

    def validated(self, policy):
        seen["validation"].append(self._on.states.language_model.fingerprint)
        return measure(self, policy)

    def acted(self, index, context, env):
        seen["episodes"].append(self.experience.features.provider.language_model.fingerprint)
        return act(self, index, context, env)

    monkeypatch.setattr(Validation, "__call__", validated)
    monkeypatch.setattr(Rollouts, "mask", acted)
    more = ["--continual", "--checkpoint-every", "1", "--final-episodes", "1"]
    assert main([*arguments, *more, "--output", str(tmp_path / "run")]) == 0
    base, *others = dict.fromkeys(seen["episodes"])
    assert len(others) == 3
    assert seen["validation"] == [base] * 4


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("checkpoints/000002/run.json", "{", "run.json is damaged"),
        ("checkpoints/000002/run.json", "{}", "does not say what the checkpoint is of"),
        ("checkpoints/000002/state.json", "{", "state.json"),
        ("metrics.jsonl", '{"episode": 0\n', "Line 1 of"),
        ("metrics.jsonl", "{}\n", "does not say of which episode"),
        ("metrics.jsonl", b"\xff\n", "Line 1 of"),
        ("resolved.yaml", "", "does not say task, dataset, data_dir and"),
        ("resolved.yaml", "task: classification\ndata", "expected `name: value` lines"),
    ],
)
def test_a_damaged_run_is_told_in_one_sentence(arguments, tmp_path, capsys, path, content, words):
    run = tmp_path / "run"
    assert main([*arguments, "--episodes", "2", "--output", str(run)]) == 0
    (run / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(run.rglob("*"))
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--episodes", "4"]) == 2
    assert words in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_a_setting_that_a_run_does_not_say_is_not_made_up(arguments, tmp_path, capsys):
    """A truncated file would be another run, and so would one of before the setting was there."""
    run = tmp_path / "run"
    assert main([*arguments, "--episodes", "2", "--output", str(run)]) == 0
    whole = (run / "resolved.yaml").read_text()
    (run / "resolved.yaml").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--episodes", "4"]) == 2
    assert "does not say tensorboard: it is damaged" in capsys.readouterr().err
    (run / "resolved.yaml").write_text(whole)
    (run / "checkpoints" / "000002.bak").mkdir()  # what people make, and nothing reads
    assert main(["train", "--resume", str(run), "--episodes", "4"]) == 0
    assert len(read_records(run / "metrics.jsonl")) == 4


def test_a_damaged_score_is_computed_again(arguments, tmp_path, monkeypatch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main([*arguments, "--output", str(whole)]) == 0
    assert main([*arguments, "--episodes", "2", "--output", str(run)]) == 0
    scores = list((run / "scores").glob("*/*.json"))
    for path in scores:
        path.write_text("")
    assert main(["train", "--resume", str(run), "--episodes", "4"]) == 0
    assert metrics(run) == metrics(whole)
    assert any(path.read_text() for path in scores)  # random's, on the validation deals


def test_columns_of_other_names_are_named(arguments, tmp_path, capsys):
    data = Path(arguments[arguments.index("--dataset") + 1])
    for path in data.iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({"s": r["text"], "y": r["label"]}) + "\n" for r in rows))
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 2
    advice = capsys.readouterr().err
    assert "--columns" in advice
    assert main([*arguments, "--columns", "s", "--output", str(tmp_path / "run")]) == 2
    assert "give two names" in capsys.readouterr().err
    named = ["--columns", "s", "y", "--episodes", "1", "--output", str(tmp_path / "run")]
    assert main([*arguments, *named]) == 0


def test_a_run_that_is_stopped_before_it_began_does_not_say_how_to_go_on(
    arguments, tmp_path, capsys, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nmg.assembly.training_setup", interrupted)
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 130
    assert "stopped before anything was done" in capsys.readouterr().err


def test_a_resumed_run_must_stay_the_same_run(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*arguments, "--episodes", "2", "--output", str(run)]) == 0
    settings = (run / "resolved.yaml").read_bytes()
    assert main(["train", "--resume", str(run), "--episodes", "1"]) == 2
    assert "2 are done in" in capsys.readouterr().err
    assert (run / "resolved.yaml").read_bytes() == settings
    assert main(["train", "--resume", str(run), "--budget", "0.4"]) == 2
    assert "--budget is 0.4 but the run" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "absent")]) == 2
    assert "no run to resume" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--output", str(tmp_path / "other")]) == 2
    assert "has its folder and its settings already" in capsys.readouterr().err


def test_a_wrong_metric_or_rival_is_told_before_training(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    for flags, message in (
        (["--metric", "acuracy"], "metric is 'acuracy'; it must be headline or one of accuracy,"),
        (["--rivals", "idff"], "no strategy 'idff'; did you mean 'idf'?"),
    ):
        assert main([*arguments, *flags, "--output", str(run)]) == 2
        assert message in capsys.readouterr().err
        assert not run.exists()


def test_the_checkpoint_is_chosen_by_its_validation(arguments, tmp_path):
    run = tmp_path / "run"
    assert main([*arguments, "--output", str(run)]) == 0
    for path, value in zip(checkpoints(run)[1:], (0.5, 0.2), strict=True):
        about = {**read_about(path), "validation": value}
        (path / "run.json").write_text(json.dumps(about))
    assert chosen_checkpoint(run).name == "000002"
    assert chosen_checkpoint(run, start=3).name == "000004"
    assert chosen_checkpoint(run / "checkpoints" / "000004").name == "000004"
    with pytest.raises(FileNotFoundError, match="from episode 50 on"):
        chosen_checkpoint(run, start=50)


def test_a_validation_that_is_no_number_is_the_worst(tmp_path):
    for episode, value in enumerate((float("nan"), -0.3, float("nan")), 1):
        write_checkpoint(tmp_path, episode, lambda folder: None, {"validation": value})
    assert chosen_checkpoint(tmp_path).name == "000002"


def test_an_episode_without_the_random_reference(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*arguments, "--no-random-reference", "--output", str(run)]) == 0
    assert set(read_records(run / "metrics.jsonl")[0]["score"]) == {"agent", "opponent"}
    assert "agent against opponent" in (run / "report.html").read_text()
    alone = ["--no-random-reference", "--self-play", "none", "--output", str(tmp_path / "other")]
    assert main([*arguments, *alone]) == 2
    assert "nothing is left to compare" in capsys.readouterr().err


def test_without_validation_the_checkpoint_is_the_last_and_said_to_be(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*arguments, "--validation-episodes", "0", "--output", str(run)]) == 0
    assert f"Policy: {run / 'checkpoints/000004'} (the last)" in capsys.readouterr().out
    assert "chosen on" not in (run / "report.html").read_text()
    assert described_choice(run, chosen_checkpoint(run)).endswith("000004 (the last)")


@pytest.mark.slow
def test_workers_give_the_scores_of_this_process(arguments, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert main([*arguments, "--episodes", "1", "--output", str(here)]) == 0
    workers = ["--workers", "2", "--episodes", "1", "--output", str(there)]
    assert main([*arguments, *workers]) == 0
    assert metrics(here) == metrics(there)


@pytest.mark.slow
def test_on_the_testbed_the_policy_finds_what_is_worth_masking(tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "--final-episodes", "8", "--rivals", "none", "--no-tensorboard"]
    assert main([*arguments, "--workers", "1", "--output", str(run)]) == 0
    rows = {row["masking"]: row for row in json.loads((run / "results.json").read_text())["rows"]}
    for name in ("policy", "best mask"):
        assert rows[name]["versus_random"]["verdict"] == "better"
    assert rows["policy"]["means"]["informative"] > 2 * rows["random"]["means"]["informative"]
