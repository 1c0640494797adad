"""Fast twins of tokenizers that transformers has in Python only.

Which word a token belongs to is told by fast tokenizers alone. Where the algorithm of a Python
tokenizer is one that fast tokenizers have too, the same vocabulary makes a fast one with the same
ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")


def fast_twin(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast | None:
    """A fast tokenizer that gives the same ids, or ``None`` if none is known."""
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
}
"""Maker of the backend, by the class of the Python tokenizer."""
