"""Contexts: windows of documents, as token ids with the word each token belongs to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.text.words import WordIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EmptyCorpusError(ValueError):
    """No context with a maskable token could be made."""


@dataclass(frozen=True, eq=False)
class Context:
    """One window of a document, special tokens included, without padding.

    Attributes:
        input_ids: token ids, int32, shape (n,).
        word_ids: index of the word of each token, int32, shape (n,); -1 for special tokens.
        maskable: which tokens may be masked, bool, shape (n,); never a special token, not even one
            that the text itself spells out ("[SEP]"). An unknown word is no special token here.
        document: index of the document the window was cut from.
    """

    input_ids: np.ndarray
    word_ids: np.ndarray
    maskable: np.ndarray
    document: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, eq=False)
class Corpus:
    """The contexts of a domain and what is needed to mask, pad and show them.

    Attributes:
        contexts: windows of the texts.
        tokenizer: that cut them.
        texts: what they were cut from, where that is known: some strategies read it.
    """

    contexts: Sequence[Context]
    tokenizer: PreTrainedTokenizerBase
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.contexts)

    def __getitem__(self, index: int) -> Context:
        return self.contexts[index]

    def __iter__(self) -> Iterator[Context]:
        return iter(self.contexts)


def build_corpus(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    targets: Collection[str] = (),
) -> Corpus:
    """Cut documents into windows of at most ``window`` content tokens (special tokens come on top).

    Word ids are those of ``envs.text.words``.

    Args:
        documents: texts.
        tokenizer: a fast one.
        window: content tokens.
        targets: those of the documents that are in the target language, see ``target_language``.

    Raises:
        EmptyCorpusError: if no document has a token.
    """
    contexts: list[Context] = []
    marks, words = special_marks(tokenizer), WordIds(tokenizer)
    texts = list(documents)
    for number, text in enumerate(texts):
        with target_language(tokenizer) if text in targets else nullcontext():
            contexts.extend(_windows(text, number, words, window, marks))
    if not contexts:
        raise EmptyCorpusError(
            "The corpus is empty: no document holds any text. "
            "Give a file with at least one non-empty document."
        )
    return Corpus(contexts, tokenizer, texts)


@contextmanager
def target_language(tokenizer: Any) -> Iterator[None]:
    """Texts are in the target language meanwhile, for tokenizers that have languages (mBART, NLLB).

    Not as targets of a source, but to be masked: marked as sources are, with the target's code,
    from which the decoder's start follows.
    """
    target = getattr(tokenizer, "tgt_lang", None)
    if target is None:
        yield
        return
    source, tokenizer.src_lang = tokenizer.src_lang, target
    try:
        yield
    finally:
        tokenizer.src_lang = source


def special_marks(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Ids that are never masked, wherever they stand: the special ones, but not unknown words'."""
    return np.array(sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id}), np.int64)


def _windows(
    text: str, document: int, words: WordIds, window: int, marks: np.ndarray
) -> Iterator[Context]:
    tokenizer = words.tokenizer
    encoded = tokenizer(
        text,
        truncation=True,
        max_length=window + tokenizer.num_special_tokens_to_add(),
        return_overflowing_tokens=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    for row, word_ids in enumerate(words.of(encoded.encodings)):
        special = np.asarray(encoded["special_tokens_mask"][row], dtype=bool)
        if special.all():
            continue
        input_ids = np.asarray(encoded["input_ids"][row], dtype=np.int32)
        maskable = ~special & (word_ids >= 0) & ~np.isin(input_ids, marks)
        yield Context(input_ids, word_ids, maskable, document)
