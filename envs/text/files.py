"""Files as rows: plain or gzip, JSON, JSON lines, csv, tsv or parquet, told apart by content."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from envs.text import hub

Kind = Literal["json", "delimited", "parquet", "text"]
Row = tuple[str, Any]
"""(where it was found, for messages; the value)."""

_DELIMITED = {".csv", ".tsv"}
_JSON = {".json", ".jsonl"}
TABLES = _DELIMITED | _JSON
"""Suffixes that plain text may not have."""
_PACKED = {".gz"}
# Articles and reviews are longer than the csv module's own limit of 131,072 characters.
csv.field_size_limit(2**31 - 1)


class DataError(ValueError):
    """A data file does not hold what was expected. The message says what, where and what to do."""


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a text file, gzip or not by its first bytes; a UTF-8 byte order mark is dropped.

    Raises:
        FileNotFoundError: if there is no such file.
        DataError: if the gzip stream is damaged or the text is not UTF-8, also while reading.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the path, or `nmg data list`.")
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    opener: Any = gzip.open if packed else open
    try:
        # newline="" leaves line ends inside quoted csv fields alone.
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"The gzip file {path} is truncated or damaged ({error}). Download or pack it again."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def suffix(path: Path) -> str:
    """The suffix that names the format: ``.json`` for ``a.json.gz``."""
    suffixes = [part.lower() for part in path.suffixes if part.lower() not in _PACKED]
    return suffixes[-1] if suffixes else ""


def kind(path: Path) -> Kind:
    """The format of a file.

    Raises:
        FileNotFoundError: if there is no such file.
        DataError: if the file holds nothing.
    """
    if path.is_file():
        with path.open("rb") as raw:
            if raw.read(4) == b"PAR1":
                return "parquet"
    with opened(path) as file:
        start = next((line.lstrip() for line in file if line.strip()), "")
    if not start:
        raise DataError(f"The file {path} is empty: expected at least one row of text.")
    table = suffix(path) in _DELIMITED
    if suffix(path) in _JSON or (start.startswith("{") and (table or _holds_json(path))):
        return "json"
    return "delimited" if table else "text"


def text_lines(path: Path) -> list[str]:
    """Lines without their ends; only line feeds and carriage returns end a line."""
    with opened(path) as file:
        lines = re.split(r"\r\n|\n|\r", file.read())
    return lines[:-1] if lines[-1] == "" else lines


def read_rows(path: Path) -> Iterator[Row]:
    """The values of a JSON, JSON lines, csv, tsv or parquet file with where each was found.

    Raises:
        DataError: on a file of another kind, and on malformed content.
    """
    found = kind(path)
    if found == "json":
        yield from _json_values(path)
    elif found == "delimited":
        yield from _delimited_rows(path)
    elif found == "parquet":
        try:
            rows = hub.parquet_rows(path)
        except hub.HubError:
            raise
        except Exception as error:  # the package raises many unrelated types here
            raise DataError(
                f"The parquet file {path} is damaged; download or write it again."
            ) from error
        yield from _numbered(rows, path)
    else:
        raise DataError(
            f"{path} is plain text; expected JSON, JSON lines, csv, tsv or parquet rows."
        )


def _numbered(values: Iterable[Any], path: Path) -> Iterator[Row]:
    return ((f"row {number} of {path}", value) for number, value in enumerate(values, 1))


def _json_values(path: Path) -> Iterator[Row]:
    """One value per line, or one document: a list gives its items."""
    with opened(path) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        number, first = next(lines)
        try:
            value = json.loads(first)
        except (ValueError, RecursionError):
            # Not a row of JSON lines, so a document over several lines.
            value = _parsed(first + "".join(line for _, line in lines), f"{path}")
        if isinstance(value, list):
            for number, _ in lines:
                raise DataError(
                    f"{path} begins with a list and goes on at line {number}; expected one list, "
                    "or an object on every line."
                )
            yield from _numbered(value, path)
            return
        yield f"line {number} of {path}", value
        for number, line in lines:
            where = f"line {number} of {path}"
            yield where, _parsed(line, where)


def _holds_json(path: Path) -> bool:
    """Whether a file that begins with a brace is JSON or JSON lines, and not plain text."""
    try:
        next(_json_values(path))
    except DataError:
        return False
    return True


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"Malformed JSON in {where}: {error}.") from error
    except RecursionError as error:
        raise DataError(f"Malformed JSON in {where}: it is nested too deeply.") from error
    except ValueError as error:  # Python's own limit
        raise DataError(f"Malformed JSON in {where}: a number has too many digits.") from error


def _delimited_rows(path: Path) -> Iterator[Row]:
    """Rows of a csv file (quoted) or a tsv file (no quoting, as GLUE's) with a header line."""
    tabs = suffix(path) == ".tsv"
    with opened(path) as file:
        # Without strict an open quote would swallow the rest of the file as one field.
        reader = csv.DictReader(
            file,
            delimiter="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            strict=True,
        )
        try:
            header = reader.fieldnames or [""]
            if len(header) == 1 and ";" in header[0]:
                raise DataError(f"{path} has ; between its columns; save it with commas instead.")
            for row in reader:
                where = f"line {reader.line_num} of {path}"
                if None in row or None in row.values():
                    width = len(reader.fieldnames or ())
                    raise DataError(
                        f"{where} does not have the {width} fields of the header line "
                        f"({', '.join(reader.fieldnames or ())})."
                    )
                yield where, row
        except csv.Error as error:
            raise DataError(
                f"Malformed csv at line {reader.line_num} of {path}: {error}."
            ) from error


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """The value, if it is a JSON object."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where} holds a JSON {type(value).__name__}; expected an object.")
    return value


def field(row: Any, key: str, where: str, expected: type | tuple[type, ...] = object) -> Any:
    """``row[key]``, or an error that names the key, the place and what the row has instead."""
    row = mapping(row, where)
    if key not in row:
        has = ", ".join(map(str, row)) or "nothing"
        raise DataError(f"{where} has no '{key}' (it has: {has}).")
    value = row[key]
    if not isinstance(value, expected):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise DataError(
            f"'{key}' in {where} is {'null' if value is None else type(value).__name__}; "
            f"expected {wanted}."
        )
    return value


def as_text(value: Any, where: str) -> str:
    """A cell as text: "" for null, NaN and blank cells.

    Raises:
        DataError: if it is a list, an object, or has half a surrogate pair, which is no text.
    """
    if isinstance(value, (list, Mapping)):
        raise DataError(f"A cell of {where} is a JSON {type(value).__name__}; expected a text.")
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"A text of {where} has half a surrogate pair ({text[error.start]!a}), which is no "
            "character; repair the file."
        ) from error
    return text if text.strip() else ""
