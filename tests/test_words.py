"""Which word a token belongs to, for every family of tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SENTENCES
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from agents.strategies import make_strategy
from envs.spaces import pad_contexts
from envs.text.corpus import build_corpus
from envs.text.words import WordIds
from nmg.collator import MaskingCollator

TEXT = (
    "Holt, the engineer: \u201cI don't sail (3.5 days) "
    "in the U.S....\u201d he said \u2014 caf\u00e9!"
)
WORDS = [
    *["Holt", ",", "the", "engineer", ":", "\u201c", "I", "don", "'", "t", "sail", "(", "3", "."],
    *["5", "days", ")", "in", "the", "U.S.", "...\u201d", "he", "said", "\u2014", "caf\u00e9", "!"],
]


@pytest.fixture(params=["cut at spaces", "cut nowhere"])
def sentencepiece(request):
    """A Unigram tokenizer, letter by letter but for a few pieces; as T5's, or as Gemma's, which
    takes a whole text for one word."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    letters = sorted({*"".join(SENTENCES), *TEXT} - {" "})
    pieces = ["\u2581the", "\u2581sail", "U.S.", "\u2581(", "."]
    scores = dict.fromkeys(pieces, -1.0) | {"\u2581": -3.0}
    scores |= {letter: -4.0 for letter in letters if letter not in scores}
    vocabulary = [*((each, 0.0) for each in special), *scores.items()]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    backend.decoder = decoders.Metaspace()
    if request.param == "cut at spaces":
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        marked = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        backend.normalizer = normalizers.Sequence(marked)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(zip(("pad", "bos", "eos", "unk", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in names.items()}
    )


def spelled(context, tokenizer):
    """The words of a context, written out."""
    numbers = sorted({*context.word_ids.tolist()} - {-1})
    assert numbers == list(range(len(numbers)))
    pieces = (context.input_ids[context.word_ids == number].tolist() for number in numbers)
    return [tokenizer.decode(piece).strip() for piece in pieces]


def test_punctuation_is_no_part_of_a_word(sentencepiece):
    (context,) = build_corpus([TEXT], sentencepiece, window=200)
    assert spelled(context, sentencepiece) == WORDS
    guessed = WordIds(sentencepiece).guess(context.input_ids, context.word_ids < 0)
    assert guessed.tolist() == context.word_ids.tolist()


def test_the_collator_has_the_same_words(sentencepiece):
    seen = []

    class Spy:
        def predict(self, observation, *args, **options):
            seen.append(observation["word_ids"][0])
            return observation["maskable"], None

    (context,) = build_corpus([TEXT], sentencepiece, window=200)
    for feature in ({"text": TEXT}, {"input_ids": context.input_ids}):
        MaskingCollator(sentencepiece, Spy())([feature])
    for words in seen:
        assert words.tolist() == context.word_ids.tolist()


def test_words_are_numbered_through_a_document(sentencepiece):
    (whole,) = build_corpus([TEXT], sentencepiece, window=200)
    windows = build_corpus([TEXT], sentencepiece, window=6)
    assert len(windows) > 5
    words = np.concatenate([window.word_ids for window in windows])
    assert words[words >= 0].tolist() == whole.word_ids[whole.word_ids >= 0].tolist()


def test_families_that_cut_punctuation_off_keep_their_words(tiny_tokenizer, bpe_tokenizer):
    for tokenizer in (tiny_tokenizer, bpe_tokenizer):
        encoded = tokenizer(TEXT)
        (context,) = build_corpus([TEXT], tokenizer, window=200)
        assert context.word_ids.tolist() == [
            -1 if word is None else word for word in encoded.word_ids()
        ]


def test_the_control_of_punctuation_finds_it(sentencepiece):
    (context,) = build_corpus([TEXT], sentencepiece, window=200)
    row = pad_contexts([context], np.zeros(1), sentencepiece, budget=1.0)
    strategy = make_strategy("punctuation", tokenizer=sentencepiece, fill=False)
    masked = context.input_ids[strategy.predict(row)[0][0] > 0].tolist()
    pieces = sorted("".join(sentencepiece.convert_ids_to_tokens(masked)).replace("\u2581", ""))
    marks = [word for word in WORDS if not any(map(str.isalnum, word))]
    assert pieces == sorted("".join(marks))
