"""Sequence-to-sequence models of every architecture: decoder inputs, losses, loading, saving."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, processors
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

from envs.generation_building import build_generation_task
from envs.models.architectures import ARCHITECTURES
from envs.models.checks import has_head
from envs.models.loading import load_seq2seq
from envs.models.names import ModelNotFoundError
from envs.models.new_model import ModelSize, UnknownArchitectureError, new_model
from envs.models.new_tokenizer import FAMILIES, TokenizerTrainingError, train_tokenizer
from envs.models.seq2seq import Seq2SeqModel, _fast_functional_dropout
from tests.conftest import SENTENCES

SIZE = ModelSize(width=32, layers=1, heads=2, length=64)
SEQ2SEQ = [name for name in ARCHITECTURES if has_head(name, "seq2seq")]


@pytest.fixture(scope="module")
def tokenizers():
    return {
        family: train_tokenizer(SENTENCES, family, vocab_size=330, max_length=64)
        for family in FAMILIES
    }


def make(name, tokenizers) -> Seq2SeqModel:
    tokenizer = tokenizers[ARCHITECTURES[name].tokenizer]
    return Seq2SeqModel(name, new_model(name, "seq2seq", tokenizer, SIZE), tokenizer)


def test_the_table_has_the_architectures_that_transformers_has():
    assert SEQ2SEQ == ["bart", "fsmt", "led", "mbart", "pegasus", "prophetnet", "t5"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_go_there_and_back(tokenizers, family, tmp_path):
    tokenizer = tokenizers[family]
    text = "The river flows to the sea."
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert ids[0] == tokenizer.cls_token_id == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.sep_token_id == tokenizer.eos_token_id
    tokenizer.save_pretrained(tmp_path)
    transformers.BertConfig().save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.is_fast
    assert again(text)["input_ids"] == ids
    assert again.model_max_length == 64


def test_bytes_are_tokens(tokenizers):
    assert len(tokenizers["bytes"]("brücke")["input_ids"]) == 2 + len("brücke".encode())


def test_no_text_no_tokenizer():
    with pytest.raises(TokenizerTrainingError, match="no text"):
        train_tokenizer([" "], "bpe")


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_losses_are_the_models_own(name, tokenizers):
    """One padded batch against the library's own loss, sequence by sequence."""
    lm = make(name, tokenizers)
    lm.model.eval()
    sources = [np.array(lm.tokenizer(text)["input_ids"]) for text in SENTENCES[:2]]
    targets = [np.array(lm.tokenizer(text)["input_ids"]) for text in SENTENCES[2:4]]
    targets[0] = np.where(np.arange(len(targets[0])) < 3, -100, targets[0])
    decoder_ids = [lm.shifted(abs(target)) for target in targets]
    with torch.inference_mode():
        together = lm.token_losses(lm.sources(sources), decoder_ids, targets)
        expected = []
        for source, target, given in zip(sources, targets, decoder_ids, strict=True):
            # FSMT alone would feed the source to its decoder, and looks ahead if it may cache.
            logits_1MV = lm.model(
                input_ids=torch.from_numpy(source)[None],
                decoder_input_ids=torch.from_numpy(given)[None],
                use_cache=False,
            ).logits
            losses = torch.nn.functional.cross_entropy(
                logits_1MV[0], torch.from_numpy(target), reduction="none"
            )
            expected.append(losses[target >= 0])
    torch.testing.assert_close(together, torch.cat(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_decoder_sees_what_came_before_and_nothing_else(name, tokenizers):
    """Not the target's length, either: ProphetNet's did, and saw tokens to come."""
    tokenizer = tokenizers[ARCHITECTURES[name].tokenizer]
    size = ModelSize(width=32, layers=2, heads=2, length=64)
    lm = Seq2SeqModel(name, new_model(name, "seq2seq", tokenizer, size), tokenizer)
    lm.model.eval()
    source, target = (np.array(tokenizer(text)["input_ids"]) for text in SENTENCES[:2])
    other = np.concatenate([target[:3], target[3:] + 1, target[:4]])

    def first_losses(decoder_ids: np.ndarray) -> torch.Tensor:
        labels = np.where(np.arange(len(decoder_ids)) < 3, 7, -100)
        return lm.token_losses(lm.sources([source]), [decoder_ids], [labels])

    with torch.inference_mode():
        alone = first_losses(target[:3])
        for decoder_ids in (target, other):
            torch.testing.assert_close(first_losses(decoder_ids), alone, rtol=1e-4, atol=1e-5)


def test_prophetnet_trains_on_what_it_generates_with(tokenizers):
    """Token by token the library's position bias is right: an oracle for all tokens at once."""
    size = ModelSize(width=32, layers=2, heads=2, length=64)
    tokenizer = tokenizers["wordpiece"]
    lm = Seq2SeqModel("prophetnet", new_model("prophetnet", "seq2seq", tokenizer, size), tokenizer)
    lm.model.eval()
    sources = lm.sources([np.array(tokenizer(text)["input_ids"]) for text in SENTENCES[:2]])
    with torch.inference_mode():
        found = lm.model.generate(
            **sources,
            num_beams=1,
            do_sample=False,
            min_new_tokens=10,
            max_new_tokens=10,
            output_logits=True,
            return_dict_in_generate=True,
        )
        decoder_ids = found.sequences[:, :-1]
        together = lm.model(**sources, decoder_input_ids=decoder_ids, use_cache=False).logits
    torch.testing.assert_close(together, torch.stack(found.logits, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [40, 100])
def test_the_longest_input_need_not_fill_led_s_windows(length):
    tokenizer = train_tokenizer(SENTENCES, "bpe", vocab_size=330, max_length=length)
    size = ModelSize(width=16, layers=1, heads=2, length=length)
    lm = Seq2SeqModel("led", new_model("led", "seq2seq", tokenizer, size), tokenizer)
    assert lm.max_length == length
    longest = np.full(length, 9)
    with torch.inference_mode():
        losses = lm.token_losses(lm.sources([longest]), [longest], [longest])
    assert losses.shape == (length,)


def test_targets_and_contexts_are_no_longer_than_the_decoder_takes():
    """LED's encoder takes far longer texts than its decoder."""
    pytest.importorskip("sacrebleu")
    tokenizer = train_tokenizer(SENTENCES, "bpe", vocab_size=330, max_length=128)
    size = ModelSize(width=16, layers=1, heads=2, length=128)
    made = new_model("led", "seq2seq", tokenizer, size, max_decoder_position_embeddings=40)
    lm = Seq2SeqModel("led", made, tokenizer)
    task = build_generation_task("pairs", lm, max_source_length=500, max_target_length=500)
    assert (task.max_source_length, task.max_target_length) == (128, 40)
    assert lm.window(500) == 40 - tokenizer.num_special_tokens_to_add()
    source, target = np.full(task.max_source_length, 9), np.full(task.max_target_length, 9)
    with torch.inference_mode():
        losses = lm.token_losses(lm.sources([source]), [target], [target])
    assert losses.shape == (40,)


def test_dropout_by_function_is_drawn_and_the_librarys_put_back(tokenizers):
    """BART's layers call ``F.dropout``; its own is back afterwards."""
    library = torch.nn.functional.dropout
    model = make("bart", tokenizers)
    ids = np.arange(5, 15)

    def losses() -> torch.Tensor:
        return model.token_losses(model.sources([ids]), [ids], [ids])

    model.model.train()
    torch.manual_seed(0)
    first, second = losses(), losses()
    torch.manual_seed(0)
    assert not torch.equal(first, second)
    torch.testing.assert_close(losses(), first)
    model.model.eval()
    torch.testing.assert_close(losses(), losses())
    with _fast_functional_dropout():
        assert not torch.nn.functional.dropout(torch.ones(9), 1.0).any()
    assert torch.nn.functional.dropout is library


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_the_decoder_starts_as_in_training(name, tokenizers):
    """Generation begins with what every target begins with."""
    lm = make(name, tokenizers)
    lm.model.eval()
    target = np.array(lm.tokenizer(SENTENCES[0])["input_ids"])
    assert lm.start_ids == (lm.shifted(target)[0], target[0])
    with torch.inference_mode():
        for beams in (1, 2):
            rows = lm.generate(lm.sources([target, target[:4]]), max_new_tokens=4, beams=beams)
            assert [tuple(row[:2].tolist()) for row in rows] == [lm.start_ids] * 2


def test_a_beam_as_wide_as_all_sequences_finds_the_best():
    """Of eight words and four steps; one that is greedy does not find it for every model."""
    special = ["<pad>", "<s>", "</s>", "<mask>", "<unk>"]
    vocab = {token: number for number, token in enumerate([*special, *"abc"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
    )
    steps, end, source = 4, vocab["</s>"], np.array([1, 5, 6, 7, 2])
    sequences = [
        each
        for length in range(1, steps + 1)
        for each in product(range(len(vocab)), repeat=length)
        if end not in each[:-1] and (each[-1] == end or length == steps)
    ]
    targets = [np.array(each) for each in sequences]
    lengths = [len(each) for each in sequences]
    greedy = 0
    for seed in range(4):
        lm = Seq2SeqModel("t5", new_model("t5", "seq2seq", tokenizer, SIZE, seed=seed), tokenizer)
        lm.model.eval()
        with torch.inference_mode():
            lm.flat.weights.mul_(1.6)  # words differ more in how likely they are
            inputs = {
                name: row.repeat(len(targets), 1) for name, row in lm.sources([source]).items()
            }
            losses = lm.token_losses(inputs, [lm.shifted(each) for each in targets], targets)
            means = [float(part.mean()) for part in losses.split(lengths)]
            best = [lm.start_ids[0], *sequences[int(np.argmin(means))]]
            one, many = (
                lm.generate(lm.sources([source]), max_new_tokens=steps, beams=beams)[0].tolist()
                for beams in (1, len(vocab) ** steps // 8)
            )
        assert many == best
        greedy += one == best
    assert greedy < 4


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_a_letter_that_the_tokenizer_lacks_is_no_first_token(unknown):
    """Targets are `$A </s>`: an unknown "a", or the end if it is dropped, would begin them all."""
    special = ["<pad>", "</s>", "<mask>", *([unknown] if unknown else [])]
    vocab = {token: number for number, token in enumerate([*special, *"bcdé"])}
    backend = Tokenizer(models.BPE(vocab, [], unk_token=unknown))
    end = ("</s>", vocab["</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[end]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        mask_token="<mask>",
        unk_token=unknown,
        model_max_length=64,
    )
    lm = Seq2SeqModel("t5", new_model("t5", "seq2seq", tokenizer, SIZE), tokenizer)
    assert lm.start_ids == (lm.model.config.decoder_start_token_id,)


def test_saving_and_loading(tokenizers, tmp_path):
    lm = make("bart", tokenizers)
    lm.save(tmp_path)
    again = load_seq2seq(str(tmp_path))
    assert again.fingerprint == lm.fingerprint
    assert again.start_ids == lm.start_ids
    snapshot = again.snapshot()
    again.flat.weights.zero_()
    again.restore(snapshot)
    assert again.fingerprint == lm.fingerprint


def test_weights_depend_on_the_seed_alone(tokenizers):
    def weights(seed):
        model = new_model("t5", "seq2seq", tokenizers["unigram"], SIZE, seed=seed)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_models_without_the_head_say_so(tokenizers, tmp_path):
    with pytest.raises(UnknownArchitectureError, match="has no sequence-to-sequence head"):
        new_model("bert", "seq2seq", tokenizers["wordpiece"], SIZE)
    with pytest.raises(UnknownArchitectureError, match="which transformers does not know"):
        new_model("qdqbert", "masked", tokenizers["wordpiece"], SIZE)
    with pytest.raises(UnknownArchitectureError, match="no architecture 'bort'"):
        new_model("bort", "masked", tokenizers["wordpiece"], SIZE)
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="bert model, for which transformers has no sequence-to"):
        load_seq2seq(str(tmp_path))


def test_a_model_that_transformers_has_not_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "transfo-xl"}))
    with pytest.raises(ModelNotFoundError, match="transfo-xl model, which transformers does not"):
        load_seq2seq(str(tmp_path))


def test_languages_are_set_on_tokenizers_that_have_them(tokenizers, tmp_path):
    make("mbart", tokenizers).save(tmp_path)
    with pytest.raises(ValueError, match="knows no languages"):
        load_seq2seq(str(tmp_path), languages=("en_XX", "de_DE"))


def test_languages_are_special_tokens_that_have_no_other_role(tmp_path):
    """A piece of a word, taken for a language, would begin every target."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "en", "de", *FAIRSEQ_LANGUAGE_CODES, "<mask>"]
    tokenizer = transformers.MBartTokenizer(vocab=[(piece, 0.0) for piece in pieces])
    new_model("mbart", "seq2seq", tokenizer, SIZE).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for languages in (("en", "de"), ("en_XX", "</s>"), ("<mask>", "de_DE")):
        with pytest.raises(ValueError, match=r"has no language .* such as ar_AR, cs_CZ, de_DE"):
            load_seq2seq(str(tmp_path), languages=languages)
    lm = load_seq2seq(str(tmp_path), languages=("en_XX", "de_DE"))
    assert lm.start_ids == (tokenizer.convert_tokens_to_ids("de_DE"),)


def test_a_tokenizer_with_languages_must_be_told_them(tmp_path):
    """It would mark the targets as sources; a folder that says its languages loads without."""
    letters = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    codes = [(code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES]
    nllb = {piece: number for number, (piece, _) in enumerate(letters)}
    for number, tokenizer in enumerate(
        (
            transformers.MBartTokenizer(vocab=[*letters, *codes, ("<mask>", 0.0)]),
            transformers.MBart50Tokenizer(vocab=[*letters, *codes, ("<mask>", 0.0)]),
            transformers.NllbTokenizer(vocab=nllb, merges=[]),
        )
    ):
        folder = tmp_path / str(number)
        new_model("mbart", "seq2seq", tokenizer, SIZE).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with pytest.raises(ValueError, match=r"was told none; give --languages.*such as a\w+,"):
            load_seq2seq(str(folder))
        tokenizer.tgt_lang = "deu_Latn" if number == 2 else "de_DE"
        tokenizer.save_pretrained(folder)
        assert load_seq2seq(str(folder)).tokenizer.tgt_lang == tokenizer.tgt_lang


def encoder_decoder(tokenizer, **positions):
    halves = [
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=positions[half],
        )
        for half in ("encoder", "decoder")
    ]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.sep_token_id
    return transformers.EncoderDecoderModel(config)


@pytest.mark.parametrize(("encoder", "decoder"), [(40, 24), (24, 40)])
def test_encoder_and_decoder_of_berts_kind_have_their_own_lengths(encoder, decoder):
    tokenizer = train_tokenizer(SENTENCES, "wordpiece", vocab_size=330, max_length=10**9)
    model = encoder_decoder(tokenizer, encoder=encoder, decoder=decoder)
    model.config.decoder_start_token_id = tokenizer.cls_token_id
    lm = Seq2SeqModel("two", model, tokenizer)
    assert (lm.max_source_length, lm.max_length) == (encoder, 24)
    source, target = np.full(encoder, 9), np.full(24, 9)
    with torch.inference_mode():
        losses = lm.token_losses(lm.sources([source]), [lm.shifted(target)], [target])
    assert losses.shape == (24,)


def test_a_decoder_that_does_not_know_its_start_says_so(tokenizers):
    model = encoder_decoder(tokenizers["wordpiece"], encoder=24, decoder=24)
    with pytest.raises(ValueError, match="'two' has no decoder_start_token_id, from which"):
        Seq2SeqModel("two", model, tokenizers["wordpiece"])
