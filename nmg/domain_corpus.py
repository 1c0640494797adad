"""The corpus of the settings: unlabelled text of the domain, masked in place of labelled texts."""

from __future__ import annotations

from pathlib import Path

from envs.text.corpus import EmptyCorpusError
from envs.text.readers import read_documents
from nmg.config import DataConfig
from nmg.new_lm_command import refuse_tables


def corpus_documents(data: DataConfig) -> list[str] | None:
    """The documents of the settings' corpus; ``None`` if the labelled texts are to be masked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a table, damaged, or holds no text.
    """
    if data.corpus is None:
        return None
    path = Path(data.corpus)
    refuse_tables([path], "write its texts by nmg corpus --output FILE.txt --file")
    documents = read_documents(path)
    if not documents:
        raise EmptyCorpusError(f"The corpus {path} holds no text; give a file with some.")
    return documents


def corpus_line(data: DataConfig, given: int, kept: int) -> str:
    """What is to be said of the corpus: how many of its documents are left out."""
    return (
        f"{data.corpus}: {given:,} document{'s' * (given != 1)}; left out, because they hold "
        f"text that is scored or are part of it: {given - kept:,}."
    )
