"""What programs write: refused before any work, whole or not there, and never over what is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from envs.folders import check_output, whole_folder
from nmg.cli import main
from nmg.config import TrainingConfig
from nmg.run_folders import claimed, write_settings


def test_a_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "a" / "model"
    with whole_folder(target) as part:
        (part / "config.json").write_text("1")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["config.json"]

    def fails():
        with whole_folder(target) as part:
            (part / "config.json").write_text("2")
            raise OSError("no room on the disk")

    with pytest.raises(OSError, match="disk"):
        fails()
    assert (target / "config.json").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_full_disk_is_said_in_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="model cannot be written: no space is left"):
        _write_to_a_full_disk(tmp_path / "model")
    assert not any(tmp_path.iterdir())


def _write_to_a_full_disk(target):
    with whole_folder(target) as part:
        (part / "config.json").touch()
        raise SafetensorError("Error: I/O error: No space left on device (os error 28)")


def test_what_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for place, words in (("file", "is a file"), ("file/in", "is a file"), ("full", "not empty")):
        with pytest.raises(ValueError, match=words):
            check_output(tmp_path / place)
    check_output(tmp_path / "new" / "one")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="a folder that nobody can write to")
def test_a_place_that_cannot_be_written_is_named_as_it_was_given():
    with pytest.raises(ValueError, match=r"^/proc/x/y cannot be written \(.*\); give another"):
        check_output(Path("/proc/x/y"))


@pytest.mark.parametrize("command", ["new-lm", "adapt", "prepare-lm"])
def test_no_program_trains_before_it_looked_where_to_write(command, tmp_path, capsys):
    corpus, full = tmp_path / "corpus.txt", tmp_path / "full"
    corpus.write_text("a text\n")
    full.mkdir()
    (full / "config.json").write_text("{}")
    flags = [] if command == "new-lm" else ["--model", str(tmp_path / "absent")]
    arguments = [command, *flags, "--corpus", str(corpus), "--output"]
    assert main([*arguments, str(full)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*arguments, str(corpus / "in")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (full / "config.json").read_text() == "{}"


def test_a_corpus_is_not_written_over_the_file_that_it_is_made_of(tmp_path, capsys):
    rows = tmp_path / "rows.txt"
    rows.write_text('{"text": "a text", "label": "yes"}\n')
    assert main(["corpus", "--file", str(rows), "--output", str(rows)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert "label" in rows.read_text()


def test_files_that_were_made_private_are_not_left_so(tmp_path) -> None:
    """safetensors does that, and a folder of models may be shared."""
    (tmp_path / "plain").touch()
    with whole_folder(tmp_path / "model") as part:
        (part / "inside").mkdir()
        for path in (part / "weights", part / "inside" / "weights"):
            path.touch(mode=0o600)
    for path in (tmp_path / "model").rglob("weights"):
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_runs_of_one_moment_get_folders_of_their_own_and_an_empty_one_goes(tmp_path):
    folder = tmp_path / "new" / "now_neural"
    with claimed(folder, anew=True) as first, claimed(folder, anew=True) as second:
        assert (first, second.name) == (folder, "now-2_neural")
        (second / "config.yaml").touch()
    assert [path.name for path in tmp_path.rglob("*_neural")] == ["now-2_neural"]
    with pytest.raises(RuntimeError), claimed(tmp_path / "a" / "b"):
        raise RuntimeError
    assert not (tmp_path / "a").exists()


def test_a_command_that_is_proposed_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "my run"
    folder.mkdir()
    write_settings(folder, TrainingConfig())
    assert main(["train", "--output", str(folder)]) == 2
    assert f"--resume '{folder}'" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
@pytest.mark.parametrize(
    "command",
    ["train --output", "train --resume", "test --output", "generation --model absent --output"],
)
def test_no_run_writes_to_the_folder_of_another_that_is_running(command, tmp_path, capsys):
    arguments = [*command.split(), str(tmp_path)]
    write_settings(tmp_path, TrainingConfig())
    with claimed(tmp_path):
        assert main(arguments) == 2
    assert "is being written by another run" in capsys.readouterr().err
