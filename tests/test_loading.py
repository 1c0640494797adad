"""From a name to a language model: what is refused, and when the hub is asked."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from envs.models import checks, names
from envs.models.architectures import ARCHITECTURES
from envs.models.checks import Head
from envs.models.loading import load_language_model, load_seq2seq
from envs.models.names import ModelNotFoundError
from envs.models.new_model import ModelSize, new_model
from envs.models.new_tokenizer import train_tokenizer
from tests.conftest import SENTENCES


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
    tiny_masked_lm.save_pretrained(tmp_path)
    for content in ("[]", '{"version": "1.0", "model": {"type": "None"}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ModelNotFoundError, match=r"tokenizer of .* cannot be read"):
            load_language_model(str(tmp_path))
    tiny_tokenizer.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    for wrong in (
        {"hidden_size": "wide"},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},
        {"hidden_act": "nope"},
    ):
        (tmp_path / "config.json").write_text(json.dumps(described | wrong))
        with pytest.raises(ModelNotFoundError, match=r"config\.json of .* can be made") as caught:
            load_language_model(str(tmp_path))
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match=r"config\.json of .* describes no model"):
        load_language_model(str(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pad_token_id": -1}, "pad_token_id -1 and vocab_size"),
        ({"pad_token_id": 10**6}, "pad_token_id 1000000 and vocab_size"),
        ({"attn_implementation": "flash_attention_2"}, "a package that is not there .*Flash"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsan"),
    ],
)
def test_settings_that_cannot_be_met_are_named(
    wrong, message, tmp_path, tiny_masked_lm, tiny_tokenizer
) -> None:
    tiny_masked_lm.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | wrong))
    with pytest.raises(ModelNotFoundError, match=rf"config\.json of .*{message}") as caught:
        load_language_model(str(tmp_path))
    assert "\n" not in str(caught.value)


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
    reachable = names.hub_is_reachable.__wrapped__
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
        for module in (names, checks):
            monkeypatch.setattr(module, "hub_is_reachable", lambda answer=answer: answer)
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


LOADERS = {"masked": load_language_model, "seq2seq": load_seq2seq}


def save_without(folder: Path, kind: str, head: Head, *parts: str) -> PreTrainedModel:
    """A small model, saved but for the weights that have one of the parts in their names."""
    tokenizer = train_tokenizer(SENTENCES, ARCHITECTURES[kind].tokenizer, vocab_size=330)
    model = new_model(kind, head, tokenizer, ModelSize(width=16, layers=1, heads=2, length=64))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    kept = {name: w for name, w in stored.items() if not any(part in name for part in parts)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return model


@pytest.mark.parametrize(
    ("kind", "head", "part"),
    [
        ("bert", "masked", "encoder.layer."),
        ("roberta", "masked", "word_embeddings"),
        ("bart", "seq2seq", "decoder.layers"),
        ("bart", "seq2seq", "shared"),
        ("t5", "seq2seq", "encoder."),
    ],
)
def test_weights_that_are_missing_are_not_drawn_at_random(kind, head, part, tmp_path) -> None:
    save_without(tmp_path, kind, head, part)
    with pytest.raises(ModelNotFoundError, match=rf"lack \d+ of those .*{part}"):
        LOADERS[head](str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "head", "part"),
    [
        ("big_bird", "masked", "pooler"),
        ("roformer", "masked", "embed_positions"),
        ("pegasus", "seq2seq", "embed_positions"),
    ],
)
def test_what_is_computed_tied_or_never_read_may_be_missing(kind, head, part, tmp_path) -> None:
    model = save_without(tmp_path, kind, head, part, "decoder.bias", "embed_tokens", "lm_head")
    again = LOADERS[head](str(tmp_path)).model.state_dict()
    for name, weight in model.state_dict().items():
        if "pooler" not in name:
            torch.testing.assert_close(again[name], weight)


def test_sizes_other_than_those_of_the_weights_are_named(
    tmp_path, tiny_masked_lm, tiny_tokenizer
) -> None:
    tiny_masked_lm.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    tiny_masked_lm.config.intermediate_size = 48
    tiny_masked_lm.config.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"bias is \(64,\) in the file .* be \(48,\)"):
        load_language_model(str(tmp_path))


@pytest.mark.parametrize(("kind", "head"), [("bert", "masked"), ("bart", "seq2seq")])
def test_tokens_that_the_model_has_no_embedding_of_are_refused(kind, head, tmp_path) -> None:
    save_without(tmp_path, kind, head)
    LOADERS[head](str(tmp_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = len(tokenizer)
    tokenizer.add_tokens(["zebra crossing", "market"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match=rf"ids up to {rows + 1}, .* {rows} tokens"):
        LOADERS[head](str(tmp_path))


def test_a_model_that_computes_in_integers_is_refused(tmp_path) -> None:
    """The ranges that it learns on the way are no weights: a job would leave them to the next."""
    save_without(tmp_path, "ibert", "masked")
    assert not load_language_model(str(tmp_path)).model.config.quant_mode
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"quant_mode": True}))
    with pytest.raises(ValueError, match="quant_mode"):
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
