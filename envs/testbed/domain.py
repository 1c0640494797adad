"""The words of the testbed, and documents made of them.

There are four kinds of words. A *known* keyword always belongs to the same topic. A *new* keyword
belongs to a topic that is drawn afresh. *Filler* belongs to none and has Zipf frequencies; *twins*
belong to none either, but each is as frequent as the keyword that it is a twin of: twins of known
keywords occur in every deal, twins of new ones come and go as these do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from envs.testbed.settings import LanguageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Family = Literal["train", "test"]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
MAX_LENGTH = 64
WORD_SEED = 20201120


class Vocabulary:
    """Token ids by kind of word.

    Attributes:
        known_TK: known keywords, one row per topic.
        new: new keywords; ``family_new`` gives a family's half.
        steady, changing: twins of the known and of the new keywords.
        filler: words with Zipf frequencies.
        size: V.
    """

    def __init__(self, settings: LanguageSettings) -> None:
        self.settings = settings
        counts = (
            settings.filler,
            settings.twins * settings.known,
            settings.twins * settings.new,
            settings.known,
            settings.new,
        )
        ends = len(SPECIAL) + np.cumsum(counts)
        self.size = int(ends[-1])
        self.filler, self.steady, self.changing, known, self.new = (
            np.arange(end - count, end) for end, count in zip(ends, counts, strict=True)
        )
        self.known_TK = known.reshape(settings.topics, -1)
        rank = np.arange(1, settings.filler + 1) + settings.zipf_shift
        self._zipf = (1 / rank) / (1 / rank).sum()

    @property
    def informative_V(self) -> np.ndarray:
        """Which token ids are keywords, bool (V,)."""
        return np.arange(self.size) >= self.known_TK.min()

    def family(self, words: np.ndarray, family: Family) -> np.ndarray:
        """The half of some words that the family uses."""
        half = len(words) // 2
        return words[:half] if family == "train" else words[half:]

    def other(self, rng: np.random.Generator, count: int, twins: np.ndarray) -> np.ndarray:
        """Words of no topic: filler, or where there is none the twins, equally often."""
        if self.settings.filler:
            return rng.choice(self.filler, size=count, p=self._zipf)
        return evenly(rng, twins, count)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A fast tokenizer with one token a word."""
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        words = [*SPECIAL, *_pseudo_words(self.size - len(SPECIAL))]
        backend = Tokenizer(
            models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]")
        )
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
            model_max_length=MAX_LENGTH,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )


def _pseudo_words(count: int) -> list[str]:
    """Different words of three syllables, six letters each: a word's look tells nothing."""
    syllables = [c + v for c in "bdfghjklmnprstvz" for v in "aeiou"]
    chosen = np.random.default_rng(WORD_SEED).choice(len(syllables) ** 3, size=count, replace=False)
    digits = (np.unravel_index(number, (len(syllables),) * 3) for number in chosen)
    return ["".join(syllables[digit] for digit in word) for word in digits]


def evenly(rng: np.random.Generator, words: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the words, each as often as the others, give or take one.

    One shuffle of all words follows another: a short stretch of them hardly repeats a word.
    """
    rounds = max(1, -(-count // len(words)))
    return np.concatenate([rng.permutation(words) for _ in range(rounds)])[:count]


def fill_in(
    rng: np.random.Generator,
    topics_B: np.ndarray,
    length: int,
    keywords: Sequence[tuple[np.ndarray, int]],
    others: Callable[[int], np.ndarray],
) -> np.ndarray:
    """Documents with keywords of their topics at random places, and other words at the rest.

    Args:
        topics_B: topic of each document.
        length: words of a document.
        keywords: words by topic (topics, n), and how many of them each document gets.
        others: draws that many words of no topic.

    Returns:
        The documents, int (B, L). Every keyword of a topic is used equally often, and so are the
        other words if they are drawn so.
    """
    used = sum(count for _, count in keywords)
    ordered_BL = np.empty((len(topics_B), length), dtype=np.int64)
    for topic in np.unique(topics_B):
        rows = np.flatnonzero(topics_B == topic)
        start = 0
        for words_TN, count in keywords:
            drawn = evenly(rng, words_TN[topic], len(rows) * count)
            ordered_BL[rows, start : start + count] = drawn.reshape(len(rows), count)
            start += count
    ordered_BL[:, used:] = others(len(topics_B) * (length - used)).reshape(len(topics_B), -1)
    return rng.permuted(ordered_BL, axis=1)


def wrapped(documents_BL: np.ndarray) -> np.ndarray:
    """Documents between [CLS] and [SEP]."""
    return np.pad(documents_BL, ((0, 0), (1, 1)), constant_values=((0, 0), (CLS, SEP)))
