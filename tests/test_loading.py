"""From a name to a language model: what is refused, and when the hub is asked."""

from __future__ import annotations

import json
import os
import socket

import pytest
import torch
import transformers

from envs.models import loading
from envs.models.loading import ModelNotFoundError, load_language_model


def test_a_folder_without_tokenizer_or_safetensors_is_refused(tmp_path, tiny_masked_lm) -> None:
    tiny_masked_lm.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="has no tokenizer"):
        load_language_model(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_masked_lm.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        load_language_model(str(tmp_path))


def test_damaged_files_of_a_model_are_named(tmp_path, tiny_masked_lm, tiny_tokenizer) -> None:
    tiny_masked_lm.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors of .* is damaged"):
        load_language_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match=r"config\.json of .* describes no model"):
        load_language_model(str(tmp_path))


def test_a_model_without_a_masked_lm_head_is_refused(tmp_path, tiny_tokenizer) -> None:
    config = transformers.GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gpt2 model, for which transformers has no masked-LM"):
        load_language_model(str(tmp_path))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="no language model 'no/such-model'"):
        load_language_model("no/such-model")


def test_a_hub_that_takes_no_connection_is_not_asked(monkeypatch, tmp_path, tiny_masked_lm) -> None:
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    reachable = loading.hub_is_reachable.__wrapped__
    with socket.create_server(("127.0.0.1", 0)) as hub:
        place = f"http://127.0.0.1:{hub.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
        assert reachable()
    assert not reachable()
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert reachable()

    asked = []

    def config(source, local_files_only, **_):
        asked.append(local_files_only)
        raise OSError

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", config)
    for answer, words in ((True, "on the hub"), (False, "the hub cannot be reached")):
        monkeypatch.setattr(loading, "hub_is_reachable", lambda answer=answer: answer)
        with pytest.raises(ModelNotFoundError, match=words):
            load_language_model("no/such-model")
    tiny_masked_lm.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError):
        load_language_model(str(tmp_path))
    assert asked == [False, True, True]


def test_an_encoder_without_its_head_is_not_taken_for_a_language_model(
    tmp_path, tiny_masked_lm, tiny_tokenizer
) -> None:
    tiny_masked_lm.bert.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no trained masked-LM head: train one by"):
        load_language_model(str(tmp_path))
    load_language_model(str(tmp_path), cold_head=True)
    tiny_masked_lm.save_pretrained(tmp_path)
    load_language_model(str(tmp_path))


def test_code_in_a_model_s_folder_is_not_run_nor_asked_for(
    tmp_path, tiny_tokenizer, monkeypatch
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    described = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    tiny_tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelNotFoundError):
        load_language_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()
