"""Which word each token belongs to."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

_SPACE = "\u2581"
"""What stands for a space in the pieces of SentencePiece's family."""
_STARTS, _BLANK, _MARKS = 1, 2, 4


class WordIds:
    """Word ids for the texts of one tokenizer.

    Words are the fast tokenizer's own. BERT's tokenizers and byte-level ones cut punctuation off;
    SentencePiece's cut at spaces alone, so that "world," were one word, or nowhere. With these a
    word also starts at a piece that starts with a space, and where pieces that are nothing but
    punctuation and symbols meet others. A piece that holds both ("n't", "U.S.") is left as it is.

    Args:
        tokenizer: a fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._kinds_V = _kinds(tokenizer) if _marks_spaces(tokenizer) else None

    def of(self, encodings: Sequence[Encoding]) -> list[np.ndarray]:
        """The words of a text that was cut into windows.

        Args:
            encodings: the windows, in order.

        Returns:
            For each window int32 (n,), -1 for tokens outside of words; numbered through the text.
        """
        cuts = np.cumsum([len(window) for window in encodings])[:-1]
        words = [word for window in encodings for word in window.word_ids]
        words_N = np.array([-1 if word is None else word for word in words], np.int32)
        ids_N = np.array([token for window in encodings for token in window.ids], np.int32)
        return np.split(self._apart(ids_N, words_N), cuts)

    def guess(self, ids: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """The words of tokens of which nothing but the ids is known.

        Where the pieces do not show their spaces, the tokens are decoded and tokenized again. If
        that does not give the same ids (a window cut in the middle of a word), a token starts a
        word where the decoded text has a space or passes between letters and other characters.

        Args:
            ids: token ids, (n,).
            outside: bool (n,), special and pad tokens; they get -1.

        Returns:
            int32 (n,).
        """
        words = np.full(len(ids), -1, np.int32)
        first = 0
        for is_outside, group in groupby(range(len(ids)), key=outside.__getitem__):
            if is_outside:
                continue
            places = list(group)
            words[places] = self._guess(ids[places]) + first
            first = int(words[places].max()) + 1
        return words

    def _apart(self, ids: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Words (n,) with those taken apart that hold several."""
        if self._kinds_V is None:
            return words
        inside = np.flatnonzero(words >= 0)
        # Tokens that were added later are told apart by the tokenizer: they are the last kind.
        kinds = self._kinds_V.take(ids[inside], mode="clip")
        same = np.diff(words[inside]) == 0
        left, right = kinds[:-1], kinds[1:]
        # A space that is a piece of its own belongs to what follows.
        meet = ((left ^ right) & _MARKS > 0) & (left & _BLANK == 0)
        apart = words.copy()
        apart[inside[1:]] += np.cumsum(same & (meet | (right & _STARTS > 0)), dtype=np.int32)
        return apart

    def _guess(self, ids: np.ndarray) -> np.ndarray:
        if self._kinds_V is not None:
            return self._apart(ids, np.zeros(len(ids), np.int32))
        piece = ids.tolist()
        again = self.tokenizer(self._decode(piece), add_special_tokens=False, verbose=False)
        if again["input_ids"] == piece:
            return np.asarray(again.word_ids(), np.int32)
        return np.cumsum([0, *(self._joint(*pair) for pair in pairwise(piece))], dtype=np.int32)

    def _joint(self, left: int, right: int) -> bool:
        """Whether two tokens are decoded with a space between them, or letters and digits meet
        other characters there."""
        before, both = self._decode([left]), self._decode([left, right])
        after = both[len(before) :] if both.startswith(before) else ""
        return after[:1].isspace() or (
            bool(before and after) and before[-1].isalnum() != after[0].isalnum()
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _marks_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend, text = tokenizer.backend_tokenizer, "a a"
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return _SPACE in text
    return any(_SPACE in piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text))


def _kinds(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """What each piece of the vocabulary does to words, uint8 (V + 1,); 0 for all others."""
    vocabulary = tokenizer.get_vocab()
    kinds_V = bytearray(max(vocabulary.values()) + 2)
    for piece, number in vocabulary.items():
        text = piece.replace(_SPACE, " ")
        content = text.strip()
        kind = _STARTS if text[:1].isspace() else 0
        if not content:
            kind |= _BLANK
        elif not content[0].isalnum():  # which is told much sooner than categories
            kind |= _MARKS * all(unicodedata.category(letter)[0] in "PS" for letter in content)
        kinds_V[number] = kind
    return np.frombuffer(kinds_V, np.uint8)
