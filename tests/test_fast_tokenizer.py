"""Fast twins of Python tokenizers give the ids of the originals, and know the words."""

import pytest
from transformers import PerceiverTokenizer, ProphetNetTokenizer

from envs.models.fast_tokenizer import fast_twin
from envs.models.loading import load_seq2seq
from envs.models.new_model import ModelSize, new_model
from tests.conftest import SENTENCES

TEXTS = [*SENTENCES, "Zoë's café — naïve 中文!", "  two  spaces ", "tabs\tand 42,5%"]


@pytest.fixture
def prophetnet(tmp_path):
    letters = sorted({c for text in TEXTS for c in text.lower() if not c.isspace()})
    pieces = ["the", "river", "##s", "##ing", *letters, *(f"##{c}" for c in letters)]
    words = ["[PAD]", "[X_SEP]", "[UNK]", "[SEP]", "[CLS]", "[MASK]", *dict.fromkeys(pieces)]
    path = tmp_path / "prophetnet.tokenizer"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return ProphetNetTokenizer(str(path))


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
