"""``nmg data list``, ``nmg data check`` and ``nmg corpus``: look at data before spending on it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nmg.options import user_path

TASKS = ("qa", "classification", "generation")

_DATA_HELP = """examples:
  nmg data list
  nmg data check squad --data-dir ~/data
  nmg data check my_rows.csv --task classification --columns sentence gold
"""
_CORPUS_HELP = """examples:
  nmg corpus --dataset chemprot --output chemprot.txt
  nmg corpus --file train-v1.1.json.gz --output squad.txt
"""


def add_parsers(subparsers: Any) -> None:
    """Mount ``data`` and ``corpus`` on the command line. Each sets ``run(args) -> exit code``."""
    data = subparsers.add_parser(
        "data",
        help="list the named data sets, or check one",
        epilog=_DATA_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = data.add_subparsers(dest="list or check", required=True)
    listing = actions.add_parser("list", help="the named data sets and which of them are there")
    _add_data_dir(listing)
    listing.set_defaults(run=run_list)
    checking = actions.add_parser("check", help="count rows, damage and overlap of a data set")
    named: dict[str, Any] = {"type": os.path.expanduser, "metavar": "NAME|PATH"}
    checking.add_argument("dataset", help="a name, a file, a folder or hub:…", **named)
    checking.add_argument("--test", help="another data set to test on", **named)
    _add_reading(checking)
    checking.set_defaults(run=run_check)
    corpus = subparsers.add_parser(
        "corpus",
        help="write the contexts of a task file as a text corpus",
        description="Write the different texts of a data set, one a line. Of a named data set "
        "these are the texts of its training split.",
        epilog=_CORPUS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = corpus.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="a data set: its training split", **named)
    source.add_argument("--file", type=user_path, help="one file: all of it")
    corpus.add_argument("--output", type=user_path, required=True, help="the text file to write")
    _add_reading(corpus)
    corpus.set_defaults(run=run_corpus)


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=user_path,
        help="folder of the named data sets (else $NMG_DATA, else ./data)",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=TASKS, help="found out where the data tells")
    parser.add_argument(
        "--columns", nargs=2, metavar=("TEXT", "LABEL"), help="columns to read, or SOURCE TARGET"
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at what would be skipped and counted"
    )
    _add_data_dir(parser)


def run_list(args: argparse.Namespace) -> int:
    """Print the table of named data sets."""
    from envs.text.locate import data_folder, missing
    from envs.text.named import DATASETS

    folder = data_folder(args.data_dir)
    print(f"Named data sets; looked for in {folder} (--data-dir or NMG_DATA)\n")
    for entry in DATASETS.values():
        state = "absent" if missing(entry, folder) else "ready"
        print(f"{entry.name:<21}{entry.task:<15}{state:<7} {entry.about}")
        print(f"{'':<21}{'':<15}{'':<7} {entry.origin}; {entry.licence}")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print the counts of one data set."""
    from envs.text.checks import check
    from envs.text.datasets import load_splits

    with _notes():
        splits = load_splits(
            args.dataset,
            task=args.task,
            data_dir=args.data_dir,
            strict=args.strict,
            test=args.test,
            columns=args.columns,
        )
    print(check(splits))
    return 0


def run_corpus(args: argparse.Namespace) -> int:
    """Write the different texts of a data set or file as a plain-text corpus."""
    from envs.text.files import TABLES, suffix

    if suffix(args.output) in TABLES:
        raise ValueError(
            f"{args.output} would be read as a table; a corpus is plain text: give a .txt --output."
        )
    if args.output.is_dir():
        raise ValueError(f"{args.output} is a folder; --output is the file to write.")
    if args.output.exists():
        raise ValueError(f"{args.output} is there already; give another --output.")
    texts = _texts_of_file(args) if args.file else _texts_of_dataset(args)
    count = write_corpus(texts, args.output)
    print(f"{count:,} text{'s' * (count != 1)} written to {args.output}")
    return 0


def _texts_of_file(args: argparse.Namespace) -> list[str]:
    from envs.text.examples import example_text
    from envs.text.readers import read_documents, read_examples

    if args.strict and args.task is None:
        raise ValueError(
            f"--strict is given, but without a task the rows of {args.file} are not checked; say "
            f"whose they are by --task {'|'.join(TASKS)}, or leave --strict out."
        )
    if args.task is None:
        return read_documents(args.file, args.columns)
    loaded = read_examples(args.file, args.task, args.strict, args.columns)
    return [example_text(example) for example in loaded.examples]


def _texts_of_dataset(args: argparse.Namespace) -> list[str]:
    from envs.text.datasets import load_splits
    from envs.text.examples import example_text

    with _notes():
        splits = load_splits(
            args.dataset,
            task=args.task,
            data_dir=args.data_dir,
            strict=args.strict,
            columns=args.columns,
            parts=("train",),
        )
    return [example_text(example) for example in splits.train]


def write_corpus(texts: Iterable[str], output: Path) -> int:
    """Write the different texts, one a line, by way of a temporary file.

    Line ends inside a text become spaces, so that ``read_documents`` gives one document per text.

    Returns:
        How many were written.

    Raises:
        EmptyCorpusError: if there is no text.
    """
    from envs.text.corpus import EmptyCorpusError

    lines = dict.fromkeys(re.sub(r"\s*[\r\n]+\s*", " ", text).strip() for text in texts)
    lines.pop("", None)
    if not lines:
        raise EmptyCorpusError("There is no text to write: every context is empty.")
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
        # mkstemp makes files private; a corpus gets what any new file would get.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return len(lines)


@contextmanager
def _notes() -> Iterator[None]:
    """Warnings of the data sets as plain notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for each in caught:
        print(f"note: {each.message}", file=sys.stderr)
