"""The examples run as they stand, on a tiny model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model_folder(tmp_path, tiny_masked_lm, tiny_tokenizer) -> str:
    tiny_masked_lm.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_own_corpus(tmp_path, model_folder, capsys, monkeypatch):
    corpus, labelled = tmp_path / "corpus.txt", tmp_path / "labelled.csv"
    corpus.write_text("\n\n".join(f"The river {i} flows to the sea." for i in range(20)))
    rows = [f"The {w} number {i}.,{w}" for i in range(15) for w in ("river", "bridge")]
    labelled.write_text("\n".join(["text,label", *rows]))
    sizes = ["--contexts", "4", "--episodes", "2"]
    arguments = [str(corpus), str(labelled), "--model", model_folder, *sizes]
    example("own_corpus").main(arguments)
    shown = capsys.readouterr().out
    assert "\x1b[" not in shown
    assert shown.count("]") >= 3
    assert shown.count("gain over random") == 3
    monkeypatch.setenv("FORCE_COLOR", "1")
    example("own_corpus").main([*arguments, "--strategies", "idf"])
    assert "\x1b[" in capsys.readouterr().out


def test_register_custom_env(model_folder, capsys):
    example("register_custom_env").main(model_folder, 3)
    shown = capsys.readouterr().out
    assert "[" in shown.splitlines()[-1]
    assert "rollout" in shown
