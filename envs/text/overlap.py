"""Which documents of a corpus hold a text, or are part of one, by eight words or more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from envs.text.corpus import EmptyCorpusError
from envs.text.examples import plain_words

RUN = 8
"""Words that are compared at once; a shorter text counts only where it is a whole document."""


def without_overlap(documents: Iterable[str], texts: Iterable[str]) -> list[str]:
    """The documents that neither hold one of the texts nor are part of one, by eight words or more
    or as a whole.

    Raises:
        EmptyCorpusError: if that is none of them.
    """
    documents = list(documents)
    found = overlapping(documents, texts)
    kept = [document for document, overlaps in zip(documents, found, strict=True) if not overlaps]
    if documents and not kept:
        raise EmptyCorpusError(
            f"Nothing is left of the corpus: each document ({len(documents):,}) holds text that is "
            "scored or is part of it; give a corpus with other text."
        )
    return kept


def overlapping(documents: Iterable[str], texts: Iterable[str]) -> list[bool]:
    """Of each document whether it holds one of the texts or is part of one, by eight words or more
    or as a whole."""
    known = {plain_words(text) for text in texts}
    starts, inner = _runs(known, firsts=True), _runs(known, firsts=False)
    return [_overlaps(document, known, starts, inner) for document in documents]


def _overlaps(
    document: str, known: set[str], starts: dict[str, set[str]], inner: dict[str, set[str]]
) -> bool:
    words = plain_words(document)
    runs, apart = _runs_of(words.split()), f" {words} "
    around = inner.get(runs[0], set()) if runs else set()
    inside = (text for run in runs for text in starts.get(run, ()))
    return (
        words in known
        or any(apart in f" {text} " for text in around)
        or any(f" {text} " in apart for text in inside)
    )


def _runs(texts: Iterable[str], *, firsts: bool) -> dict[str, set[str]]:
    """Texts by their first run of words, or by each of their runs."""
    found: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        runs = _runs_of(text.split())
        for run in runs[:1] if firsts else runs:
            found[run].add(text)
    return found


def _runs_of(words: Sequence[str]) -> list[str]:
    return [" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
