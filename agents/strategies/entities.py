"""Strategies that read the text: entities, salient spans, punctuation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from agents.strategies.base import ContextView, Spans, Strategy
from agents.strategies.selection import add_spans, as_spans, fill_up, shuffled_spans
from agents.strategies.wording import (
    FUNCTION_WORDS,
    MONTHS,
    SENTENCE_ENDS,
    WordText,
    is_name,
    is_punctuation,
    keeps_case,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Finder = Callable[[str], Iterable[tuple[int, int]]]
"""Text -> (start, end) characters of its entities."""


class Punctuation(Strategy):
    """Punctuation marks and symbols in random order: a control, as in Kang et al. 2020 (NMG).

    Args:
        tokenizer: whose token ids the contexts hold.
        fill: mask random tokens with what is left of the budget, so that comparisons with other
            strategies are at the same number of tokens.
        seed: of the draws.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, fill: bool = True, seed: int = 0
    ) -> None:
        super().__init__(seed)
        self._text, self.fill = WordText(tokenizer), fill

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        marks = np.array([is_punctuation(word) for word in self._text(view)], dtype=bool)
        mask_L = np.zeros_like(view.maskable_L)
        spans = view.words[0][marks], view.words[1][marks]
        add_spans(mask_L, view, shuffled_spans(spans, self._rng))
        if self.fill:
            fill_up(mask_L, view, self._rng)
        return mask_L


class Entities(Strategy):
    """Named entities and numbers, whole, in random order (as in Kang et al. 2020 and ERNIE,
    Sun et al. 2019, arXiv 1904.09223).

    Without a ``finder``, entities are found by their spelling: runs of capitalised words (one at
    the start of a sentence counts only if another follows it), numbers, and dates with an English
    month. An uncased tokenizer has lost the capitals; ``names`` gives them back (see
    ``name_words``).

    Args:
        tokenizer: whose token ids the contexts hold.
        names: lower-case words that are part of names, for an uncased tokenizer.
        finder: finds entities in a text instead, e.g. with spaCy
            ``lambda text: [(e.start_char, e.end_char) for e in nlp(text).ents]``.
        fill: mask random tokens with what is left of the budget, so that comparisons with other
            strategies are at the same number of tokens.
        seed: of the draws.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        names: Collection[str] | None = None,
        finder: Finder | None = None,
        fill: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self._text, self.names, self.finder, self.fill = WordText(tokenizer), names, finder, fill
        if finder is None and names is None and not keeps_case(tokenizer):
            warnings.warn(
                "The tokenizer does not keep capitals, so only numbers are found as entities. "
                "Give names=name_words(texts) or a finder.",
                stacklevel=2,
            )

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        mask_L = np.zeros_like(view.maskable_L)
        spans = as_spans([stretch(view.words, *pair) for pair in self.find(view)])
        add_spans(mask_L, view, shuffled_spans(spans, self._rng))
        if self.fill:
            fill_up(mask_L, view, self._rng)
        return mask_L

    def find(self, view: ContextView) -> list[tuple[int, int]]:
        """The entities of a context as (first word, last word), in reading order."""
        if self.finder is None:
            return spelled_entities(self._text(view), self.names)
        text, places = self._text.whole(view)
        return [
            (touched[0], touched[-1])
            for start, end in self.finder(text)
            if (touched := [i for i, (a, b) in enumerate(places) if a < end and b > start])
        ]


class Salient(Entities):
    """One salient span of each sentence: a name, a date or a number (after Guu et al. 2020, REALM,
    and Roberts et al. 2020, arXiv 2002.08910, who take names and dates).

    Sentences come in random order until the budget is full. Published work also chooses the
    *sentences* it trains on; this is the choice of masks alone. Arguments as for ``Entities``.
    """

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        found = self.find(view)
        ends = np.array([word[-1:] in SENTENCE_ENDS for word in self._text(view)], dtype=int)
        for first, last in found:  # the point of 3.5 or of U.S. ends no sentence
            ends[first:last] = 0
        sentence = np.cumsum(ends) - ends
        one_each: dict[int, tuple[int, int]] = {}
        for number in self._rng.permutation(len(found)).tolist():
            one_each.setdefault(int(sentence[found[number][0]]), found[number])
        # The dict is in the random order in which the sentences were first met, and a sentence of
        # many entities is met earlier: draw the order of the sentences apart.
        spans = as_spans([stretch(view.words, *pair) for pair in one_each.values()])
        mask_L = np.zeros_like(view.maskable_L)
        add_spans(mask_L, view, shuffled_spans(spans, self._rng))
        if self.fill:
            fill_up(mask_L, view, self._rng)
        return mask_L


def spelled_entities(
    words: list[str], names: Collection[str] | None = None
) -> list[tuple[int, int]]:
    """Entities by spelling: runs of names, numbers and dates, as (first word, last word)."""
    kinds = [_kind(words, number, names) for number in range(len(words))]
    for i in range(1, len(kinds) - 1):  # 3.5 and 1,902 cut into three words are one number
        if words[i] in {".", ","} and kinds[i - 1] == kinds[i + 1] == "number":
            kinds[i] = "number"
    for i, word in enumerate(words):  # 12 May 1990, May 12, 1990; "may" and "march" are verbs, too
        if word.lower() in MONTHS:
            before, after = "number" in kinds[i - 1 : i], "number" in kinds[i + 1 : i + 2]
            if after or (before and kinds[i] == "name"):
                kinds[i] = "number"
    runs: list[tuple[int, int]] = []
    for number, kind in enumerate(kinds):
        if not kind:
            continue
        if number and kinds[number - 1] == kind:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _kind(words: list[str], number: int, names: Collection[str] | None) -> str:
    word = words[number]
    if word[:1].isdigit():
        return "number"
    if word.lower() in FUNCTION_WORDS:
        return ""
    if names is not None and is_name(word, names):
        return "name"
    starts_sentence = number == 0 or words[number - 1][-1:] in SENTENCE_ENDS
    after = words[number + 1] if number + 1 < len(words) else ""
    follows = after[:1].isupper() and after.lower() not in FUNCTION_WORDS
    return "name" if word[:1].isupper() and (follows or not starts_sentence) else ""


def stretch(words: Spans, first: int, last: int) -> tuple[int, int]:
    """The tokens from word ``first`` to word ``last``, both included, as (start, end)."""
    return int(words[0][first]), int(words[1][last])
