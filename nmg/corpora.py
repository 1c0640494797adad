"""The texts that a command is given: files of plain text, or a data set's training split."""

from __future__ import annotations

import argparse
import os
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path

from envs.text.corpus import EmptyCorpusError
from nmg.config import DataConfig
from nmg.data_command import TASKS
from nmg.limits import two_columns
from nmg.options import user_path

AS_TEXT = "write its texts by nmg corpus --output FILE.txt --file"
"""What to do with a table where there is no ``--dataset`` that would take it."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """Flags that say which texts a model is made of."""
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument(
        "--corpus",
        type=user_path,
        nargs="+",
        metavar="FILE",
        help="plain text, JSON lines, parquet, .gz",
    )
    corpus.add_argument(
        "--dataset",
        type=os.path.expanduser,
        metavar="NAME|PATH",
        help="the training texts of a data set, or of a table (csv, jsonl ...); of pairs, both",
    )
    parser.add_argument("--data-dir", type=user_path, help="folder of the named data sets")
    parser.add_argument("--task", choices=TASKS, help="of the data set, where it does not tell")
    parser.add_argument(
        "--columns",
        nargs=2,
        metavar=("TEXT", "LABEL"),
        help="names of its columns, where not the usual",
    )


def source_texts(args: argparse.Namespace) -> list[str]:
    """The texts that the flags of `add_source` name; of a data set the different ones of its
    training split, of pairs sources and targets."""
    if args.corpus:
        return corpus_texts(args.corpus)
    from envs.text.datasets import load_splits
    from envs.text.examples import GenerationExample, example_text

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        splits = load_splits(
            args.dataset,
            task=args.task,
            data_dir=args.data_dir,
            columns=two_columns(tuple(args.columns or ())),
            parts=("train",),
        )
    texts: list[str] = []
    for example in splits.train:
        texts.append(example_text(example))
        if isinstance(example, GenerationExample):
            texts += example.targets
    return list(dict.fromkeys(texts))


def corpus_texts(paths: Sequence[Path], advice: str = "give it by --dataset") -> list[str]:
    """The documents of files of plain text.

    Args:
        paths: of the files.
        advice: what to do with a table instead, up to its path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a csv or tsv file, whose texts are one column of it.
    """
    from envs.text.readers import read_documents

    for path in paths:
        if {".csv", ".tsv"} & set(path.suffixes):
            raise ValueError(
                f"{path} is a table, not plain text; {advice} {shlex.quote(str(path))}."
            )
    return [text for path in paths for text in read_documents(path)]


def corpus_documents(data: DataConfig) -> list[str] | None:
    """The documents of the settings' corpus; ``None`` if the labelled texts are to be masked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a table, damaged, or holds no text.
    """
    if data.corpus is None:
        return None
    path = Path(data.corpus)
    documents = corpus_texts([path], AS_TEXT)
    if not documents:
        raise EmptyCorpusError(f"The corpus {path} holds no text; give a file with some.")
    return documents


def corpus_line(data: DataConfig, given: int, kept: int) -> str:
    """What is to be said of the corpus: how many of its documents are left out."""
    return (
        f"{data.corpus}: {given:,} document{'s' * (given != 1)}; left out, because they hold "
        f"text that is scored or are part of it, by eight words or more or as a whole: "
        f"{given - kept:,}."
    )
