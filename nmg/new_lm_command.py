"""``nmg new-lm``: a language model from scratch, with a tokenizer trained on the corpus."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from envs.folders import check_output, whole_folder
from envs.models.new_model import ModelSize
from envs.models.new_tokenizer import Family
from nmg.corpora import add_source, source_texts
from nmg.limits import at_least
from nmg.options import add_flags, build, given_flags, user_path

if TYPE_CHECKING:
    from envs.models.checks import Head

EXAMPLES = """examples:
  nmg new-lm --architecture bart --dataset multi30k --output models/multi30k-bart
  nmg new-lm --architecture t5 --corpus a.txt b.txt.gz --width 256 --layers 3 --output models/t5
  nmg new-lm --architecture roberta --corpus a.txt --vocab-size 4000 --output models/roberta
"""
SHORTEST = 8
"""Tokens that a model must take at least: fewer leave too little beside special ones."""


@dataclass(frozen=True)
class NewModelConfig:
    """What is made."""

    architecture: str = "bart"
    """A model type of transformers; docs/architectures.md lists those that work."""
    tokenizer: Family | None = None
    """wordpiece, bpe (byte-level), unigram (SentencePiece's), bytes or moses (pieces of Moses'
    words); none for the family of the architecture's published models."""
    vocab_size: int = 8000
    """Tokens of the vocabulary, special ones included."""
    head: Literal["masked", "seq2seq"] | None = None
    """masked or seq2seq; none for seq2seq where the architecture can, else masked."""
    width: int = 128
    """Width of the hidden states."""
    layers: int = 2
    """Layers of the encoder, and again of the decoder where there is one."""
    heads: int = 4
    """Attention heads; they divide the width."""
    length: int = 128
    """Longest input, special tokens included."""
    seed: int = 0
    """Of the weights."""

    def __post_init__(self) -> None:
        at_least(1, vocab_size=self.vocab_size)
        at_least(SHORTEST, length=self.length)


@dataclass(frozen=True)
class _Parts:
    model: NewModelConfig = field(default_factory=NewModelConfig)


def add_parser(subparsers: Any) -> None:
    """Mount ``new-lm`` on the command line."""
    parser = subparsers.add_parser(
        "new-lm",
        help="make a language model from scratch, with a tokenizer of the corpus",
        description="Train a tokenizer on the corpus and save it with a model of random weights: "
        "the start of experiments that no published model may have seen.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="folder to write"
    )
    add_flags(parser, _Parts, sources=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the model and save it."""
    from transformers.utils import logging

    from envs.models.checks import has_head
    from envs.models.new_model import new_model
    from envs.models.new_tokenizer import train_tokenizer

    config = build(_Parts, given_flags(_Parts, args)).model
    check_output(args.output)
    size = ModelSize(config.width, config.layers, config.heads, config.length)
    family = config.tokenizer or _family(config.architecture)
    texts = source_texts(args)
    tokenizer = train_tokenizer(
        texts, family, vocab_size=config.vocab_size, max_length=config.length
    )
    head: Head = config.head or (
        "seq2seq" if has_head(config.architecture, "seq2seq") else "masked"
    )
    model = new_model(config.architecture, head, tokenizer, size, seed=config.seed)
    logging.disable_progress_bar()
    with whole_folder(args.output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{type(model).__name__} of {weights:,} weights, {family} tokenizer of "
        f"{len(tokenizer):,} tokens trained on {len(texts):,} texts.\nIt is in {args.output}."
    )
    return 0


def _family(architecture: str) -> Family:
    from envs.models.architectures import ARCHITECTURES
    from nmg.options import nearest

    if architecture not in ARCHITECTURES:
        hint = nearest(architecture, ARCHITECTURES)
        raise ValueError(f"There is no architecture {architecture!r}{hint}.")
    return ARCHITECTURES[architecture].tokenizer
