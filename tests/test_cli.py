"""The command: help that is quick and has examples, one sentence and exit code 2 for bad input."""

import io
import subprocess
import sys

import numpy as np
import pytest
from tiny_run import train_arguments, write_model, write_texts

from nmg import assembly, cli
from nmg.cli import PROGRAMS, build_parser, main
from nmg.testing import resolve


def test_help_lists_every_program_and_imports_nothing_heavy():
    code = (
        "import sys; from nmg.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in PROGRAMS:
        assert f"\n    {name}" in done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_explains_itself_with_examples(program, capsys):
    with pytest.raises(SystemExit) as stop:
        main([program, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "examples:" in printed or program == "data"
    assert "--checkpoint-every EVERY" not in printed


def test_a_pipe_that_is_closed_early_is_no_error(tmp_path):
    listing = subprocess.Popen(
        [sys.executable, "-m", "nmg", "data", "list", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    listing.stdout.close()
    assert listing.stderr.read() == ""
    listing.wait(timeout=60)


def test_unknown_flags_and_programs_name_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--budgte", "0.1"])
    assert stop.value.code == 2
    assert "did you mean '--budget'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["trian"])
    assert "train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("adapt --corpus absent.txt --output out --lr nan", "lr is nan"),
        ("adapt --corpus absent.txt --output out --clip -1", "clip is -1"),
        ("adapt --corpus absent.txt --output out --seed -1", "seed is -1"),
        ("prepare-lm --corpus absent.txt --steps -1", "steps is -1"),
        ("prepare-lm --corpus absent.txt --rate 0", "rate is 0"),
        ("generation --model absent --beams 0", "beams is 0"),
        ("generation --model absent --smoothing 2", "smoothing is 2"),
        ("generation --model absent --pairs", "pairs names nothing"),
        ("generation --model absent --finetune-steps -1", "finetune_steps is -1"),
        ("generation --model absent --max-source-length 0", "max_source_length is 0"),
        ("mask --strategy idf --text a --window 0", "window is 0"),
        ("mask --strategy random --text a --seed -1", "seed is -1"),
        ("testbed --seed -1", "seed is -1"),
        ("train --model bert", "the testbed has one of its own"),
        ("train --continual-reset-every 3", "continual is off"),
        ("train --task qa --dataset squad --max-length 100", "give a lower --stride, too"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(arguments, message, capsys):
    assert message in sentence(capsys, arguments.split())


def test_a_wrong_value_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--episodes", "1.5"])
    printed = capsys.readouterr().err
    assert "expected a whole number. See" in printed


def sentence(capsys, arguments) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("nmg: ")
    assert "\n" not in printed
    assert "Traceback" not in printed
    return printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget", "1.5"], "budget is 1.5"),
        (["--dataset", "/absent/file.json", "--task", "qa"], "/absent/file.json"),
        (["--dataset", "squad", "--task", "qa", "--data-dir", "/absent"], "squad"),
        (["--model", "/absent/model"], "/absent/model"),
        (["--config", "/absent.yaml"], "no settings file"),
        (["--preset", "squad-brt"], "did you mean 'squad-bert'"),
        (["--device", "gpu"], "device is 'gpu'"),
        (["--device", "cuda:99"], "device is 'cuda:99', but torch finds"),
        (["--gradient", "expected", "--critic", "state-value"], "gradient='expected'"),
    ],
)
def test_bad_settings_are_one_sentence(
    flags, message, capsys, tmp_path, tiny_masked_lm, tiny_tokenizer
):
    data = write_texts(tmp_path / "data")
    model = write_model(tmp_path / "model", tiny_masked_lm, tiny_tokenizer)
    arguments = [*train_arguments(data, model), *flags, "--output", tmp_path / "run"]
    assert message in sentence(capsys, arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["test", "--test-dataset", "foo", "--test-examples", "5"],
        ["test", "--contexts", "5", "--examples", "5"],
        ["train", "--window", "9", "--train-examples", "5"],
        ["noise", "--contexts", "5"],
    ],
)
def test_what_would_do_nothing_on_the_testbed_is_refused_by_hand_alone(arguments, capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("contexts: 5\nstride: 0\nmax_length: 0")
    told = sentence(capsys, arguments)
    assert ", ".join(flag for flag in arguments if flag.startswith("--")) in told
    assert "would do nothing on the testbed" in told
    # A file may say it: it is read, and refused for what cannot be.
    told = sentence(capsys, [arguments[0], "--config", tmp_path / "mine.yaml"])
    assert "max_length is 0" in told


@pytest.mark.parametrize(
    ("said", "threads"), [("3", 3), ("2,1", 2), ("many", 5), ("", 5), ("0", 5)]
)
def test_threads_are_as_said_or_one_per_core(monkeypatch, said, threads):
    monkeypatch.setattr(assembly, "core_count", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert assembly.thread_count() == threads


def broken(name: str, content: bytes | str):
    return name, content if isinstance(content, bytes) else content.encode()


@pytest.mark.parametrize(
    ("task", "file", "message"),
    [
        ("qa", broken("cut.json.gz", b"\x1f\x8b\x08\x00\x00"), "cut.json.gz"),
        ("qa", broken("shape.json", '{"rows": [1]}'), "shape.json"),
        ("classification", broken("empty.jsonl", ""), "empty.jsonl"),
        ("classification", broken("semi.csv", "text;label\na;b\n"), "has ; between its columns"),
        ("classification", broken("torn.jsonl", '{"text": "a", "label'), "torn.jsonl"),
    ],
)
def test_damaged_files_are_one_sentence(
    task, file, message, capsys, tmp_path, tiny_masked_lm, tiny_tokenizer
):
    model = write_model(tmp_path / "model", tiny_masked_lm, tiny_tokenizer)
    path = tmp_path / file[0]
    path.write_bytes(file[1])
    arguments = [*train_arguments(path, model), "--task", task, "--stride", "8"]
    assert message in sentence(capsys, [*arguments, "--output", tmp_path / "run"])


def test_a_text_that_is_not_utf8_is_one_sentence(
    capsys, monkeypatch, tmp_path, tiny_masked_lm, tiny_tokenizer
):
    model = write_model(tmp_path / "model", tiny_masked_lm, tiny_tokenizer)
    arguments = ["mask", "--strategy", "random", "--model", model]
    assert "not UTF-8" in sentence(capsys, [*arguments, "--text", "caf\udce9"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    assert "not UTF-8" in sentence(capsys, [*arguments, "--file", "-"])


def test_an_unknown_test_label_and_a_model_without_tokenizer_are_one_sentence(
    capsys, tmp_path, tiny_masked_lm, tiny_tokenizer
):
    data = write_texts(tmp_path / "data")
    model = write_model(tmp_path / "model", tiny_masked_lm, tiny_tokenizer)
    with (data / "test.jsonl").open("a") as file:
        file.write('{"text": "the sea", "label": "wet"}\n')
    common = ["--task", "classification", "--output", tmp_path / "out"]
    arguments = ["test", "--dataset", data, "--model", model, *common]
    assert "wet" in sentence(capsys, arguments)
    tiny_masked_lm.save_pretrained(tmp_path / "bare")
    arguments = ["test", "--dataset", data, "--model", tmp_path / "bare", *common]
    assert "tokenizer" in sentence(capsys, arguments)


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "build_parser", lambda program: np.zeros(2).reshape(3))
    with pytest.raises(ValueError, match="reshape"):
        main(["train"])


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["train", "--config", "/absent.yaml", "--debug"])


def test_the_home_of_the_user_is_understood_where_no_shell_has_seen_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("model: ~/model\ntest_dataset: ~/other")
    args = build_parser("test").parse_args(["test", "--output=~/out", "--config=~/mine.yaml"])
    config = resolve(args)
    assert (args.output, config.data.model) == (tmp_path / "out", f"{tmp_path}/model")
    assert config.comparison.test_dataset == f"{tmp_path}/other"
    args = build_parser("data").parse_args(["data", "check", "~/x", "--data-dir=~/data"])
    assert (args.dataset, args.data_dir) == (f"{tmp_path}/x", tmp_path / "data")
