"""Fast twins of Python tokenizers give the ids of the originals, and know the words."""

# ruff: noqa: RUF001 (signs that look alike are told apart)

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    FSMTTokenizer,
    PerceiverTokenizer,
    PreTrainedTokenizerBase,
    ProphetNetTokenizer,
    XLMTokenizer,
)

from envs.models.fast_tokenizer import fast_twin, no_moses_needed
from envs.models.loading import load_language_model, load_seq2seq
from envs.models.new_model import ModelSize, new_model
from envs.models.new_tokenizer import train_tokenizer
from tests.conftest import SENTENCES

TEXTS = [*SENTENCES, "Zoë's café — naïve 中文!", "  two  spaces ", "tabs\tand 42,5%"]

WORDS = {
    "The river isn't long, Mr. Holt's map says.": "The river isn 't long , Mr. Holt 's map says .",
    "In 1902 it cost $1,500.50 (or 3%)...": "In 1902 it cost $ 1,500.50 ( or 3 % ) ...",
    "“Well-known”, she said: ‘Arden’…": "\" Well-known , \" she said : ' Arden ' ...",
    "See No. 5, i.e. the U.S. Army. No. Yes!": "See No. 5 , i.e. the U.S. Army . No . Yes !",
    "...and (so) on": "... and ( so ) on",
    "Zoë's café — rock 'n' roll in the 1990's": "Zoë 's café - rock ' n ' roll in the 1990 's",
    "a/b & c<d> [x] approx. two. The end": "a / b & c < d > [ x ] approx. two . The end",
    "  two  spaces，中文! ": "two spaces , 中 文 !",
}
"""Moses' words of English texts, by sacremoses 0.2.0."""
ESCAPED = {
    "Don't: the well-known U.S. band.": "Don &apos;t : the well @-@ known U.S. band .",
    'a & b | <c> ["d"]': "a &amp; b &#124; &lt; c &gt; &#91; &quot; d &quot; &#93;",
}
"""The same as FSMT wants them."""


@pytest.fixture
def prophetnet(tmp_path):
    letters = sorted({c for text in TEXTS for c in text.lower() if not c.isspace()})
    pieces = ["the", "river", "##s", "##ing", *letters, *(f"##{c}" for c in letters)]
    words = ["[PAD]", "[X_SEP]", "[UNK]", "[SEP]", "[CLS]", "[MASK]", *dict.fromkeys(pieces)]
    path = tmp_path / "prophetnet.tokenizer"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return ProphetNetTokenizer(str(path))


@pytest.fixture
def word_ends(tmp_path):
    """Vocabulary and merges, as XLM and FSMT keep them."""
    texts = [*SENTENCES, *ESCAPED.values(), *(words.lower() for words in WORDS.values())]
    model = train_tokenizer(texts, "moses", vocab_size=400).backend_tokenizer.model
    vocab, merges = model.save(str(tmp_path))
    lines = Path(merges).read_text(encoding="utf-8").splitlines()[1:]
    Path(merges).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vocab, merges


def xlm(word_ends, **settings) -> XLMTokenizer:
    with no_moses_needed():
        return XLMTokenizer(*word_ends, **settings)


def fsmt(word_ends, target=None, **settings) -> FSMTTokenizer:
    vocab, merges = word_ends
    with no_moses_needed():
        return FSMTTokenizer(["en", "de"], vocab, target or vocab, merges, **settings)


def ids_of_words(slow, words: str) -> list[int]:
    """By the library's own byte-pair encoding, which needs no sacremoses."""
    pieces = [piece for word in words.split() for piece in slow.bpe(word).split()]
    return slow.build_inputs_with_special_tokens(slow.convert_tokens_to_ids(pieces))


@pytest.fixture
def slow(request, prophetnet):
    return prophetnet if request.param == "prophetnet" else PerceiverTokenizer()


@pytest.mark.parametrize("slow", ["prophetnet", "perceiver"], indirect=True)
def test_the_same_ids(slow):
    fast = fast_twin(slow)
    assert fast.is_fast
    assert len(fast) == len(slow)
    for text in TEXTS:
        assert fast(text)["input_ids"] == slow(text)["input_ids"]
        pair = fast(text, TEXTS[0])
        assert pair["input_ids"] == slow(text, TEXTS[0])["input_ids"]
        assert None in pair.word_ids()
    for role in ("pad", "mask", "sep"):
        assert getattr(fast, f"{role}_token_id") == getattr(slow, f"{role}_token_id")
    assert fast.all_special_ids


def test_words_are_known():
    fast = fast_twin(PerceiverTokenizer())
    words = fast("ab cd").word_ids()
    assert words[0] is None
    assert words[1] == words[2] != words[-2]


def test_no_twin_is_no_guess(bpe_tokenizer):
    assert fast_twin(bpe_tokenizer) is None


def test_a_model_with_a_python_tokenizer_loads(prophetnet, tmp_path):
    folder = tmp_path / "model"
    new_model("prophetnet", "seq2seq", prophetnet, ModelSize(32, 1, 2, 64)).save_pretrained(folder)
    prophetnet.save_pretrained(folder)
    model = load_seq2seq(str(folder))
    assert model.tokenizer.is_fast
    assert model.mask_token_id == prophetnet.mask_token_id


@pytest.mark.parametrize("lower", [False, True])
def test_xlms_words_and_ids(word_ends, lower):
    slow = xlm(word_ends, do_lowercase_and_remove_accent=lower)
    fast = fast_twin(slow)
    for text, words in WORDS.items():
        plain = words.lower().replace("ë", "e").replace("é", "e") if lower else words
        encoded = fast(text)
        assert encoded["input_ids"] == ids_of_words(slow, plain), text
        assert max(word for word in encoded.word_ids() if word is not None) + 1 == len(
            words.split()
        )
    assert len(fast) == len(slow)
    assert sorted(fast.all_special_ids) == sorted(slow.all_special_ids)
    assert fast.mask_token == "<special1>"


def test_fsmts_words_and_ids(word_ends):
    slow = fsmt(word_ends)
    fast, lower = fast_twin(slow), fast_twin(fsmt(word_ends, do_lower_case=True))
    for text, words in ESCAPED.items():
        encoded = fast(text)["input_ids"]
        assert encoded == ids_of_words(slow, words)
        assert lower(text)["input_ids"] == ids_of_words(slow, words.lower())
    ids = fast("Don't: the well-known band.")["input_ids"]
    assert fast.decode(ids, skip_special_tokens=True) == "Don't: the well-known band."
    assert fast(SENTENCES[0], SENTENCES[1])["input_ids"].count(fast.sep_token_id) == 2


@pytest.mark.parametrize("make", [xlm, fsmt])
def test_the_ids_of_the_original_with_sacremoses(word_ends, make):
    pytest.importorskip("sacremoses")
    slow = make(word_ends)
    fast = fast_twin(slow)
    for text in [*SENTENCES, *WORDS, *ESCAPED]:
        assert fast(text)["input_ids"] == slow(text)["input_ids"], text


def test_places_in_the_text_are_kept(word_ends):
    """Answers are found by them."""
    text = "The town's bridge (built in 1902) isn't “long”."
    encoded = fast_twin(fsmt(word_ends))(text, return_offsets_mapping=True)
    words = {}
    for word, (start, end) in zip(encoded.word_ids(), encoded["offset_mapping"], strict=True):
        if word is not None:
            first, last = words.get(word, (start, end))
            words[word] = min(first, start), max(last, end)
    found = [text[start:end] for start, end in words.values()]
    assert found[:10] == ["The", "town", "'s", "bridge", "(", "built", "in", "1902", ")", "isn"]
    assert "long" in found


def test_merges_that_the_vocabulary_lacks_are_left_out(word_ends):
    vocab = Path(word_ends[0])
    pieces = json.loads(vocab.read_text(encoding="utf-8"))
    longest = max((piece for piece in pieces if piece.endswith("</w>")), key=len)
    kept = [piece for piece in pieces if piece != longest]
    vocab.write_text(json.dumps({piece: i for i, piece in enumerate(kept)}), encoding="utf-8")
    fast = fast_twin(xlm(word_ends))
    cut = fast.tokenize(longest.removesuffix("</w>"))
    assert len(cut) > 1
    assert "".join(cut) == longest


def test_two_vocabularies_are_refused(word_ends, tmp_path):
    target = tmp_path / "target.json"
    target.write_text(json.dumps({"<s>": 0, "wort</w>": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="one vocabulary for sources and another for targets"):
        fast_twin(fsmt(word_ends, str(target)))


def save(model_type, head, tokenizer: PreTrainedTokenizerBase, fast, folder):
    new_model(model_type, head, fast, ModelSize(32, 1, 2, 64)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_xlm_loads_with_its_python_tokenizer(word_ends, tmp_path):
    slow = xlm(word_ends)
    save("xlm", "masked", slow, fast_twin(slow), tmp_path / "model")
    model = load_language_model(str(tmp_path / "model"))
    assert model.tokenizer.is_fast
    assert model.mask_token_id == slow.mask_token_id
    ids = np.array(model.tokenizer(SENTENCES[0])["input_ids"])
    with torch.inference_mode():
        assert model.hidden_states([ids]).shape == (len(ids), 32)
    model.save(tmp_path / "again")
    again = load_language_model(str(tmp_path / "again"))
    assert again.tokenizer(SENTENCES[1])["input_ids"] == model.tokenizer(SENTENCES[1])["input_ids"]


def test_fsmt_loads_with_its_python_tokenizer(word_ends, tmp_path):
    slow = fsmt(word_ends, mask_token="<special1>")
    twin = fast_twin(slow)
    twin.eos_token, twin.bos_token = "</s>", "<s>"
    save("fsmt", "seq2seq", slow, twin, tmp_path / "model")
    model = load_seq2seq(str(tmp_path / "model"))
    assert model.tokenizer.is_fast
    assert model.mask_token_id == slow.mask_token_id
    ids = np.array(model.tokenizer(SENTENCES[0])["input_ids"])
    made = model.generate(model.sources([ids]), max_new_tokens=4)
    assert len(made) == 1


def test_nothing_stays_where_sacremoses_was_missing(monkeypatch):
    monkeypatch.setattr("envs.models.fast_tokenizer.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "sacremoses", raising=False)
    with no_moses_needed():
        assert "sacremoses" in sys.modules
    assert "sacremoses" not in sys.modules


def test_two_threads_load_tokenizers_one_after_the_other(monkeypatch):
    def found(name):
        if name in sys.modules:  # as importlib does
            raise ValueError(f"{name}.__spec__ is None")

    monkeypatch.setattr("envs.models.fast_tokenizer.find_spec", found)
    monkeypatch.delitem(sys.modules, "sacremoses", raising=False)
    inside, leave = threading.Event(), threading.Event()

    def load(event=None):
        with no_moses_needed():
            inside.set()
            return event is None or event.wait(10)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(load, leave)
        assert inside.wait(10)
        second = threads.submit(load)
        with suppress(TimeoutError):
            second.result(0.2)
        leave.set()
        assert first.result(10)
        assert second.result(10)
    assert "sacremoses" not in sys.modules
