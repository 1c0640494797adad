"""Tokenizers trained on a corpus, of the five families that language models use.

Special tokens carry the names that the published models of the family gave them, and every family
has all that the project's tasks need: a first token, an end, a mask, padding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from envs.models.moses import moses_text, moses_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

Family = Literal["wordpiece", "bpe", "unigram", "bytes", "moses"]
"""``wordpiece``: BERT's; ``bpe``: byte-level, GPT-2's and RoBERTa's; ``unigram``: SentencePiece's
default; ``bytes``: one token a byte (Perceiver, CANINE); ``moses``: pieces of Moses' words, the
last one marked (XLM, FSMT)."""


class TokenizerTrainingError(ValueError):
    """No tokenizer can be trained from what was given."""


@dataclass(frozen=True)
class _Family:
    """How a family cuts words; ``parts`` gives model, normalizer, pre-tokenizer, decoder and
    trainer for a vocabulary size."""

    parts: Callable[[int, list[str]], tuple[Any, Any, Any, Any, Any]]
    special: Mapping[str, str]
    """Token by role, in the order of their ids, which is that of the family's published models:
    RoBERTa's kin count positions from the padding id, ProphetNet's need it to be 0, XLM's 2."""
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    marked: Callable[[str], Iterable[str]] | None = None
    """Characters of a word that the trainer marks as continuing or ending it."""


_BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_BART_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
_T5_TOKENS = {"pad": "<pad>", "sep": "</s>", "unk": "<unk>", "cls": "<s>", "mask": "<mask>"}
_XLM_TOKENS = {
    "cls": "<s>",
    "sep": "</s>",
    "pad": "<pad>",
    "unk": "<unk>",
    "mask": "<special1>",
}


def _wordpiece(size: int, special: list[str]) -> tuple[Any, Any, Any, Any, Any]:
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    return (
        models.WordPiece(unk_token="[UNK]"),
        normalizers.BertNormalizer(lowercase=False),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
        trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False),
    )


def _bpe(size: int, special: list[str]) -> tuple[Any, Any, Any, Any, Any]:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return models.BPE(), None, cut, decoders.ByteLevel(), trainer


def _unigram(size: int, special: list[str]) -> tuple[Any, Any, Any, Any, Any]:
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    cut = pre_tokenizers.Metaspace()
    return models.Unigram(), normalizers.NFKC(), cut, decoders.Metaspace(), trainer


def _bytes(size: int, special: list[str]) -> tuple[Any, Any, Any, Any, Any]:
    from tokenizers import pre_tokenizers

    # As many tokens as there are bytes leaves no room for a merge.
    return _bpe(len(special) + len(pre_tokenizers.ByteLevel.alphabet()), special)


def _moses(size: int, special: list[str]) -> tuple[Any, Any, Any, Any, Any]:
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    model = models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
    words = normalizers.Sequence(moses_words())
    return model, words, pre_tokenizers.WhitespaceSplit(), moses_text(), trainer


FAMILIES: dict[Family, _Family] = {
    "wordpiece": _Family(
        _wordpiece,
        _BERT_TOKENS,
        ("input_ids", "token_type_ids", "attention_mask"),
        marked=lambda word: ["##" + character for character in word[1:]],
    ),
    "bpe": _Family(_bpe, _BART_TOKENS),
    "unigram": _Family(_unigram, _T5_TOKENS),
    "bytes": _Family(_bytes, _BERT_TOKENS),
    "moses": _Family(_moses, _XLM_TOKENS, marked=lambda word: [word[-1] + "</w>"]),
}


def train_tokenizer(
    texts: Iterable[str], family: Family, *, vocab_size: int = 8000, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Train a fast tokenizer.

    A text is encoded as first token, text, end; a pair as first token, text, end, text, end, with
    token types 0 and 1. First token and end are also begin and end of sequence.

    Args:
        texts: of the language or domain. The same texts give the same tokenizer, except with
            ``unigram``, whose trainer sums in an order of its own each time.
        family: how words are cut.
        vocab_size: tokens, special ones included; a small corpus may give fewer.
        max_length: longest input of the model it is for, special tokens included.

    Raises:
        TokenizerTrainingError: if there is no text, or the vocabulary is too small for its
            characters.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    made = FAMILIES[family]
    special = list(made.special.values())
    model, normalizer, cut, decoder, trainer = made.parts(vocab_size, special)
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = cut, decoder
    if normalizer is not None:
        backend.normalizer = normalizer
    kept = [text for text in texts if text.strip()]
    if not kept:
        raise TokenizerTrainingError("There is no text to train a tokenizer on; give a corpus.")
    marked: list[str] = []
    if made.marked:
        marked = sorted({piece for word in _words(backend, kept) for piece in made.marked(word)})
        trainer.special_tokens = trainer.special_tokens + marked
    try:
        backend.train_from_iterator(kept, trainer)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerTrainingError(
            f"No {family} tokenizer of {vocab_size} tokens can be trained on this corpus: {error}"
        ) from error
    backend = _without_added(backend, marked)
    first, end = made.special["cls"], made.special["sep"]
    ids = {token: backend.token_to_id(token) for token in (first, end)}
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {end}",
        pair=f"{first} $A {end} $B:1 {end}:1",
        special_tokens=list(ids.items()),
    )
    roles = {f"{role}_token": token for role, token in made.special.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=first,
        eos_token=end,
        model_max_length=max_length,
        model_input_names=list(made.inputs),
        **roles,
    )


def _words(backend: Tokenizer, texts: Iterable[str]) -> set[str]:
    words: set[str] = set()
    for text in texts:
        normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    return words


def _without_added(backend: Tokenizer, tokens: Iterable[str]) -> Tokenizer:
    """Leave some tokens to the model alone.

    The trainers number marked characters as they meet them, in an order that differs from run to
    run, and break ties between merges by these numbers. Naming them in advance fixes the numbers,
    but makes added tokens of them, which would be found in any text.
    """
    state, gone = json.loads(backend.to_str()), set(tokens)
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in gone]
    return type(backend).from_str(json.dumps(state))
