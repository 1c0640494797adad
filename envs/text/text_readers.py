"""Texts with labels, and plain-text corpora."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from envs.text.examples import Loaded, Skips, TextExample, plain_words
from envs.text.files import DataError, Row, as_text, field, mapping, text_lines


def read_texts(
    rows: Iterable[Row], *, columns: tuple[str, str] = ("text", "label"), strict: bool = False
) -> Loaded:
    """One example per row, or per sentence of an abstract (keys ``sentences`` and ``labels``).

    Raises:
        DataError: on rows of another shape; with ``strict`` on the first thing to skip.
    """
    skips = Skips(strict)
    examples: list[TextExample] = []
    for where, name, text, label, group in _labelled(rows, columns):
        if not text:
            skips.add("empty texts", where)
        elif not label:
            skips.add("rows without a label", where)
        else:
            examples.append(TextExample(name, text, label, group))
    return Loaded(examples, dict(skips.counts))


def _labelled(
    rows: Iterable[Row], columns: tuple[str, str]
) -> Iterator[tuple[str, str, str, str, str]]:
    """(where, id, text, label, group) of each row or sentence."""
    text_column, label_column = columns
    for number, (where, value) in enumerate(rows):
        row = mapping(value, where)
        if is_abstract(row) and text_column not in row:
            sentences, labels = _abstract(row, where)
            texts = [as_text(sentence, where) for sentence in sentences]
            group = plain_words(" ".join(texts))  # by its words: some sets repeat abstracts
            for sentence, (text, label) in enumerate(zip(texts, labels, strict=True)):
                place = f"sentence {sentence + 1} of {where}"
                yield place, f"{number}-{sentence}", text, as_text(label, place).strip(), group
        else:
            text = as_text(_column(row, text_column, where), where)
            label = as_text(_column(row, label_column, where), where).strip()
            yield where, as_text(row.get("id"), where) or str(number), text, label, ""


def _column(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise DataError(
            f"{where} has no '{name}'; it has: {', '.join(map(str, row))}. "
            "Name the columns to read, for example --columns sentence gold."
        )
    return row[name]


def is_abstract(row: Any) -> bool:
    return isinstance(row, Mapping) and "sentences" in row and "labels" in row


def _abstract(row: Mapping[str, Any], where: str) -> tuple[Sequence[Any], Sequence[Any]]:
    sentences, labels = field(row, "sentences", where, list), field(row, "labels", where, list)
    if len(sentences) != len(labels):
        raise DataError(f"{where} has {len(sentences)} sentences and {len(labels)} labels.")
    return sentences, labels


def rct_rows(path: Path) -> Iterator[Row]:
    """Abstracts of PubMed RCT's own layout: ``###id``, then ``LABEL<tab>sentence`` lines."""
    abstracts: list[tuple[str, dict[str, list[str]]]] = []
    for number, line in enumerate(text_lines(path), 1):
        where = f"line {number} of {path}"
        if line.startswith("###"):
            abstracts.append((f"the abstract at {where}", {"sentences": [], "labels": []}))
        elif line.strip():
            label, tab, text = line.partition("\t")
            if not tab:
                raise DataError(f"{where} has no tab; expected a label, a tab and a sentence.")
            abstracts[-1][1]["sentences"].append(text)
            abstracts[-1][1]["labels"].append(label)
    yield from abstracts


def plain_documents(path: Path) -> list[str]:
    """Documents of a plain-text file; three layouts, tried in this order.

    1. The first line is a WikiText heading (``= Title =``): a document is an article, without
       its headings.
    2. Blank lines stand between lines: a document is what stands between blank lines.
    3. Else a document is a line.

    The lines of a document are joined by line feeds.
    """
    lines = [line.strip() for line in text_lines(path)]
    blocks = [list(block) for filled, block in groupby(lines, bool) if filled]
    if not blocks:
        return []
    if len(blocks[0]) == 1 and _heading_level(blocks[0][0]) == 1:
        return _articles(blocks)
    if len(blocks) == 1:
        return blocks[0]
    return ["\n".join(block) for block in blocks]


def _articles(blocks: Iterable[Sequence[str]]) -> list[str]:
    articles: list[list[str]] = []
    for block in blocks:
        # A title stands alone; formulas inside a paragraph can look like one.
        if len(block) == 1 and _heading_level(block[0]) == 1:
            articles.append([])
        else:
            articles[-1].extend(line for line in block if _heading_level(line) < 2)
    return ["\n".join(article) for article in articles if article]


def _heading_level(line: str) -> int:
    """1 for ``= Title =``, 2 for ``= = Section = =``, 0 for a line of text."""
    words = line.split()
    marks = [word == "=" for word in words]
    if not marks or all(marks):
        return 0
    before, after = marks.index(False), marks[::-1].index(False)
    return before if before == after else 0
