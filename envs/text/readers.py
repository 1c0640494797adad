"""Any supported file as examples of a task, or as documents.

The format is found by looking into the file, never by asking:

| content | tasks |
|---|---|
| SQuAD v1.1 / v2.0 JSON, MRQA lines, rows with context, question, answers | ``qa`` |
| rows with a text and a label column; abstracts with ``sentences`` and ``labels``; PubMed RCT | ``classification`` |
| rows with source and target; ``x.en`` beside ``x.de``; dialogues with ``__eou__`` | ``generation`` |

Rows are JSON lines, a JSON list, csv, tsv or parquet; every text file may be gzip.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from envs.text.examples import GenerationExample, Loaded, QuestionExample, TextExample
from envs.text.files import DataError, Row, as_text, kind, mapping, opened, read_rows
from envs.text.generation_readers import (
    END_OF_UTTERANCE,
    dialogue_rows,
    is_parallel,
    joined,
    parallel_rows,
    read_pairs,
)
from envs.text.question_readers import contexts, is_questions, read_questions
from envs.text.text_readers import is_abstract, plain_documents, rct_rows, read_texts

__all__ = [
    "DataError",
    "GenerationExample",
    "Loaded",
    "QuestionExample",
    "TaskName",
    "TextExample",
    "examples_of",
    "guess_task",
    "read_documents",
    "read_examples",
]

TaskName = Literal["qa", "classification", "generation"]
TASKS: tuple[str, ...] = get_args(TaskName)
COLUMNS = {"classification": ("text", "label"), "generation": ("source", "target")}


def read_examples(
    path: str | Path,
    task: str,
    strict: bool = False,
    columns: tuple[str, str] | None = None,
) -> Loaded:
    """The examples of one file and the count of what was skipped.

    Args:
        path: the file.
        task: ``qa``, ``classification`` or ``generation``.
        strict: raise on the first thing that would be skipped.
        columns: names of the text and label (source and target) columns, where not the usual.

    Raises:
        FileNotFoundError: if there is no such file.
        DataError: if the file is empty, damaged, of another shape, or holds no usable example.
    """
    path = Path(path)
    if task not in TASKS:
        raise DataError(f"There is no task '{task}'; expected one of {', '.join(TASKS)}.")
    loaded = examples_of(_rows(path, task, columns), task, strict, columns)
    if not loaded.examples:
        why = ", ".join(f"{count} {reason}" for reason, count in loaded.skipped.items())
        raise DataError(f"{path} holds no usable {task} example ({why or 'it has no rows'}).")
    return loaded


def examples_of(
    rows: Iterable[Row], task: str, strict: bool = False, columns: tuple[str, str] | None = None
) -> Loaded:
    """Rows, from wherever, as examples of a task."""
    if task == "qa":
        return read_questions(rows, strict=strict)
    read = read_texts if task == "classification" else read_pairs
    return read(rows, columns=columns or COLUMNS[task], strict=strict)


def read_documents(path: str | Path, columns: tuple[str, str] | None = None) -> list[str]:
    """The texts of a corpus or of a task file, to further pre-train on.

    Plain text is cut as ``text_readers.plain_documents`` says. Of a task file these are the
    different contexts, texts or sources, abstracts whole; dialogues have a turn a line.

    Raises:
        FileNotFoundError: if there is no such file.
        DataError: if the file is empty, damaged, or has rows without any text.
    """
    path = Path(path)
    rows: Iterable[Row]
    if kind(path) != "text":
        rows = read_rows(path)
    elif _is_rct(path):
        rows = rct_rows(path)
    elif END_OF_UTTERANCE in _first_line(path):
        turns = (document.split(END_OF_UTTERANCE) for document in plain_documents(path))
        return ["\n".join(filter(None, map(str.strip, each))) for each in turns]
    else:
        return plain_documents(path)
    text_column = columns[0] if columns else "text"
    documents: dict[str, None] = {}
    for where, value in rows:
        documents.update(dict.fromkeys(_texts(value, where, text_column)))
    documents.pop("", None)
    return list(documents)


def guess_task(path: str | Path) -> str:
    """The task a file is made for, by its first rows.

    Raises:
        DataError: if the rows do not tell.
    """
    path = Path(path)
    if kind(path) == "text":
        line = _first_line(path)
        if END_OF_UTTERANCE in line:
            return "generation"
        if line.startswith("###"):
            return "classification"
    else:
        rows = list(islice(read_rows(path), 2))
        if not rows:
            raise DataError(f"{path} holds no rows; expected at least one.")
        for where, value in rows:
            if is_questions(mapping(value, where)):
                return "qa"
            for task, columns in COLUMNS.items():
                if set(columns) <= set(value) or (task == "classification" and is_abstract(value)):
                    return task
    raise DataError(f"The rows of {path} do not tell their task: add --task {'|'.join(TASKS)}.")


def _rows(path: Path, task: str, columns: tuple[str, str] | None) -> Iterable[Row]:
    if task == "generation" and columns is not None and is_parallel(path, columns):
        return parallel_rows(path, columns)
    if task != "qa" and kind(path) == "text":
        line = _first_line(path)
        if task == "classification" and line.startswith("###"):
            return rct_rows(path)
        if task == "generation" and END_OF_UTTERANCE in line:
            return dialogue_rows(path)
    return read_rows(path)


def _texts(value: Any, where: str, text_column: str) -> list[str]:
    row = mapping(value, where)
    if text_column in row:
        return [as_text(row[text_column], where)]
    if is_questions(row):
        return contexts([(where, row)])
    for key in ("sentences", "source"):
        if key in row:
            return [joined(row[key], where)]
    raise DataError(
        f"{where} has no text: expected '{text_column}', 'context', 'sentences' or 'source'; "
        f"it has: {', '.join(map(str, row))}."
    )


def _first_line(path: Path) -> str:
    with opened(path) as file:
        return next(line for line in file if line.strip())


def _is_rct(path: Path) -> bool:
    """Whether a plain text is PubMed RCT, and not one that begins with a ``###`` heading."""
    with opened(path) as file:
        first, *others = islice((line for line in file if line.strip()), 2)
    return first.startswith("###") and any("\t" in line for line in others)
