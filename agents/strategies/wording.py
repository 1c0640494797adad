"""The text of words, and what can be told from it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from agents.strategies.base import ContextView

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENGLISH = """
    a about above after again against all also am an and any are as at be because been before
    being below between both but by can could did do does doing down during each few for from
    further had has have having he her here hers him his how i if in into is it its itself just me
    more most my no nor not now of off on once only or other our out over own s same she should so
    some such t than that the their theirs them then there these they this those through to too
    under until up very was we were what when where which while who whom why will with would you
    your
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())
"""English words that say little on their own."""

_MONTHS = """
    january february march april may june july august september october november december
    jan feb mar apr jun jul aug sep sept oct nov dec
"""
MONTHS = frozenset(_MONTHS.split())
"""English months and their abbreviations."""

SENTENCE_ENDS = frozenset(".!?")
_WORD = re.compile(r"[^\W\d_]\w*|\d[\d.,]*|[^\w\s]")


class WordText:
    """Writes the words of a context out with its tokenizer; each word type is decoded once.

    Works for any tokenizer: pieces are put together by the tokenizer's own decoder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[tuple[int, ...], str] = {}

    def __call__(self, view: ContextView) -> list[str]:
        """The words of the context, without the space around them."""
        return [text.strip() for text in self._decoded(view)]

    def whole(self, view: ContextView) -> tuple[str, list[tuple[int, int]]]:
        """The context as one text, and the characters (start, end) of each of its words.

        Words that carry no space of their own (WordPiece) are put apart by one space.
        """
        pieces = self._decoded(view)
        spaced = any(piece[:1].isspace() for piece in pieces[1:])
        text, places = "", []
        for piece in pieces:
            text += piece if spaced or not text else " " + piece.strip()
            start = len(text) - len(piece.strip())
            places.append((start, len(text)))
        return text, places

    def _decoded(self, view: ContextView) -> list[str]:
        return [self._decode(word) for word in view.word_types()]

    def _decode(self, word: tuple[int, ...]) -> str:
        text = self._known.get(word)
        if text is None:
            decoded = self.tokenizer.decode(list(word), clean_up_tokenization_spaces=False)
            text = self._known[word] = str(decoded).rstrip()
        return text


def is_punctuation(text: str) -> bool:
    """Whether a word is made of punctuation marks and symbols only."""
    return bool(text) and all(unicodedata.category(letter)[0] in "PS" for letter in text)


def keeps_case(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer tells upper from lower case."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is None or "A" in normalizer.normalize_str("A")


def name_words(texts: Iterable[str]) -> frozenset[str]:
    """Words, in lower case, that raw texts mostly write with a capital inside of sentences.

    Gives back to an uncased tokenizer what it needs to know names by. As such tokenizers mostly
    do, accents are dropped, and words end at apostrophes and hyphens.
    """
    capital: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for text in texts:
        start = True
        for word in _WORD.findall(_without_accents(text)):
            if word[0].isalpha() and not start:
                total[word.lower()] += 1
                capital[word.lower()] += word[0].isupper()
            start = word in SENTENCE_ENDS or (start and not word[0].isalnum())
    return frozenset(word for word, n in capital.items() if 2 * n > total[word]) - FUNCTION_WORDS


def is_name(word: str, names: Collection[str]) -> bool:
    """Whether a tokenizer's word, or a part of it as ``name_words`` cuts it, is among names."""
    parts = _WORD.findall(_without_accents(word).lower())
    return word.lower() in names or any(part in names for part in parts)


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    letters = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")
