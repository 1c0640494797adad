"""Fast twins of tokenizers that transformers has in Python only.

Which word a token belongs to is told by fast tokenizers alone. Where the algorithm of a Python
tokenizer is one that fast tokenizers have too, the same vocabulary makes a fast one with the same
ids. XLM's and FSMT's cut words by Moses' rules first; ``envs/models/moses.py`` says where the words
of their twins are others. And where the vocabulary lacks a merge's parts or result, the twin does
not merge: what Python's would call unknown, or reach by way of it, comes in smaller pieces.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from envs.models.moses import moses_text, moses_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")

_standing_in = threading.Lock()


def fast_twin(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast | None:
    """A fast tokenizer that gives the same ids, or ``None`` if none is known.

    Raises:
        ValueError: if sources and targets have a vocabulary each.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    twin = TWINS.get(type(tokenizer).__name__)
    if twin is None:
        return None
    backend = twin(tokenizer)
    # The tokens that frame a text are asked for, not known: [CLS] X [SEP] here, X [SEP] there.
    first, last = "A", "B"
    single = tokenizer.build_inputs_with_special_tokens([-1])
    pair = tokenizer.build_inputs_with_special_tokens([-1], [-2])
    names = {-1: f"${first}", -2: f"${last}:1"}
    special = {
        i: str(tokenizer.convert_ids_to_tokens(i)) for i in {*single, *pair} if i not in names
    }
    backend.post_processor = processors.TemplateProcessing(
        single=[names.get(i) or special[i] for i in single],
        pair=[names.get(i) or special[i] for i in pair],
        special_tokens=[(token, i) for i, token in special.items()],
    )
    roles = {f"{role}_token": getattr(tokenizer, f"{role}_token", None) for role in ROLES}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=list(tokenizer.model_input_names),
        extra_special_tokens=tokenizer.extra_special_tokens,
        **{name: token for name, token in roles.items() if token is not None},
    )


def _wordpiece(tokenizer: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    basic = tokenizer.basic_tokenizer
    vocab = {str(token): int(i) for token, i in tokenizer.get_vocab().items()}
    backend = Tokenizer(models.WordPiece(vocab, unk_token=str(tokenizer.unk_token)))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=basic.do_lower_case,
        strip_accents=basic.strip_accents,
        handle_chinese_chars=basic.tokenize_chinese_chars,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _bytes(tokenizer: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {
        str(token): int(i) for token, i in tokenizer.get_vocab().items() if i < _specials(tokenizer)
    }
    vocab |= {sign: byte + _specials(tokenizer) for byte, sign in _signs().items()}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _xlm(tokenizer: Any) -> Any:
    from tokenizers import Regex, normalizers

    rules = moses_words()
    if tokenizer.do_lowercase_and_remove_accent:
        rules += [normalizers.Lowercase(), normalizers.NFD()]
        rules += [normalizers.Replace(Regex(r"\p{Mn}"), ""), normalizers.Lowercase()]
    return _word_ends(tokenizer, rules)


def _fsmt(tokenizer: Any) -> Any:
    from tokenizers import normalizers

    if tokenizer.encoder != {token: i for i, token in tokenizer.decoder.items()}:
        raise ValueError(
            f"The tokenizer of {tokenizer.name_or_path!r} has one vocabulary for sources and "
            "another for targets, and transformers encodes targets with that of the sources, so "
            "its model cannot be trained here. Give one whose languages share a vocabulary."
        )
    rules = moses_words(tokenizer.src_lang, hyphens=True, escape=True)
    if tokenizer.do_lower_case:
        rules.insert(0, normalizers.Lowercase())
    return _word_ends(tokenizer, rules)


def _word_ends(tokenizer: Any, rules: list[Any]) -> Any:
    """Byte-pair encoding whose last piece of a word ends in ``</w>``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocab = {str(token): int(i) for token, i in tokenizer.get_vocab().items()}
    merges = [
        (left, right)
        for left, right in tokenizer.bpe_ranks
        if {left, right, left + right} <= vocab.keys()
    ]
    unknown = str(tokenizer.unk_token)
    backend = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence(rules)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = moses_text()
    return backend


@contextmanager
def no_moses_needed() -> Iterator[None]:
    """XLM's and FSMT's tokenizers can be made where sacremoses is missing, whose work a twin does.

    They ask for it when made, and use it when they cut words. One thread at a time: another would
    find what stands in for it.
    """
    with _standing_in:
        missing = find_spec("sacremoses") is None
        if missing:
            sys.modules["sacremoses"] = ModuleType("sacremoses")
        try:
            yield
        finally:
            if missing:
                sys.modules.pop("sacremoses", None)


def _specials(tokenizer: Any) -> int:
    return len(tokenizer) - 256


def _signs() -> dict[int, str]:
    """The printable sign that byte-level tokenizers write for each byte (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    shown = {byte: chr(byte) for byte in plain}
    return shown | {byte: chr(256 + n) for n, byte in enumerate(others)}


TWINS: Mapping[str, Callable[[Any], Any]] = {
    "ProphetNetTokenizer": _wordpiece,
    "PerceiverTokenizer": _bytes,
    "XLMTokenizer": _xlm,
    "FSMTTokenizer": _fsmt,
}
"""Maker of the backend, by the class of the Python tokenizer."""
