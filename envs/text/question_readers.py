"""Questions from SQuAD (v1.1, v2.0), MRQA and flat rows (one question each, as on the hub)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from envs.text.examples import Loaded, QuestionExample, Skips
from envs.text.files import DataError, Row, as_text, field, mapping

Paragraph = tuple[str, str, str, Sequence[Any]]
"""(where, title, context, questions)."""


def read_questions(rows: Iterable[Row], *, strict: bool = False) -> Loaded:
    """Questions of any supported layout.

    An answer that is not at its offset is dropped and counted; a question left without any is
    dropped too, unless it is marked impossible. MRQA's answers are the detected spans, as they
    stand in the context; the texts it lists beside them are accepted as well, as its official
    script does.

    Raises:
        DataError: on rows of another shape; with ``strict`` on the first thing to skip.
    """
    skips = Skips(strict)
    examples: list[QuestionExample] = []
    for where, title, context, questions in _paragraphs(rows):
        if not context:
            skips.add("empty contexts", where)
            continue
        for number, question in enumerate(questions):
            place = f"qas[{number}] of {where}" if len(questions) > 1 else where
            example = _question(question, place, title, context, str(len(examples)), skips)
            if example is not None:
                examples.append(example)
    return Loaded(examples, dict(skips.counts))


def contexts(rows: Iterable[Row]) -> list[str]:
    """The different contexts, in the order they first appear in."""
    return list(dict.fromkeys(context for *_, context, _ in _paragraphs(rows) if context))


def is_questions(value: Any) -> bool:
    """Whether a row looks like one of the layouts read here."""
    if not isinstance(value, Mapping):
        return False
    return "context" in value or _is_header(value) or isinstance(value.get("data"), list)


def _is_header(value: Mapping[str, Any]) -> bool:
    # The first line of an MRQA file; read through a table it has null for every other column.
    return value.get("header") is not None and value.get("context") is None


def _paragraphs(rows: Iterable[Row]) -> Iterator[Paragraph]:
    for where, value in rows:
        row = mapping(value, where)
        if _is_header(row):
            continue
        if "data" in row and "context" not in row:
            for number, article in enumerate(field(row, "data", where, list)):
                yield from _article(article, f"data[{number}] of {where}")
        else:
            yield _row(row, where)


def _article(article: Any, where: str) -> Iterator[Paragraph]:
    article = mapping(article, where)
    if "paragraphs" not in article and "context" in article:
        yield _row(article, where)
        return
    title = as_text(article.get("title"), where)
    for number, paragraph in enumerate(field(article, "paragraphs", where, list)):
        place = f"paragraphs[{number}] of {where}"
        context = as_text(field(paragraph, "context", place), place)
        yield place, title, context, field(paragraph, "qas", place, list)


def _row(row: Mapping[str, Any], where: str) -> Paragraph:
    if "context" not in row:
        has = ", ".join(map(str, row)) or "nothing"
        raise DataError(
            f"{where} is not a question file: expected SQuAD JSON ('data'), MRQA lines ('context' "
            f"and 'qas') or rows with 'context', 'question' and 'answers'; it has: {has}."
        )
    questions = field(row, "qas", where, list) if "qas" in row else [row]
    title, context = as_text(row.get("title"), where), as_text(row["context"], where)
    return where, title, context, questions


def _question(
    qa: Any, where: str, title: str, context: str, number: str, skips: Skips
) -> QuestionExample | None:
    question = as_text(field(qa, "question", where), where)
    if not question:
        skips.add("empty questions", where)
        return None
    name = as_text(qa.get("qid", qa.get("id")), where) or number
    where = f"question {name}, {where}"
    mark = qa.get("is_impossible")
    if mark not in (None, 0, 1):
        skips.add("questions whose is_impossible is not true or false", where)
        return None
    if _lacks_offsets(qa, where):
        skips.add("questions with other counts of answers and offsets", where)
        return None
    spans = list(_spans(qa, where, context))
    # Hub rows of SQuAD v2.0 have no mark: an impossible question is one with an empty list.
    unmarked = isinstance(qa.get("answers"), Mapping) and not spans
    impossible = unmarked if mark is None else bool(mark)
    answers = [] if impossible else [span for span in spans if _in_place(span, context)]
    for _ in range(0 if impossible else len(spans) - len(answers)):
        skips.add("answers not at their offset", where)
    if not answers and not impossible:
        skips.add("questions left without an answer", where)
        return None
    # Development sets repeat answers, one per annotator: the number of votes is kept.
    accepted = () if impossible else _accepted(qa, where, {_plain(text) for text, _ in answers})
    return QuestionExample(name, title, context, question, tuple(answers), impossible, accepted)


def _lacks_offsets(qa: Mapping[str, Any], where: str) -> bool:
    """Whether answers given as two lists, texts and offsets, are not as many in both."""
    answers = qa.get("answers")
    if not isinstance(answers, Mapping):
        return False
    texts = field(answers, "text", where, list)
    return len(texts) != len(field(answers, "answer_start", where, list))


def _in_place(span: tuple[str, int], context: str) -> bool:
    text, start = span
    return start >= 0 and bool(text) and context.startswith(text, start)


def _spans(qa: Mapping[str, Any], where: str, context: str) -> Iterator[tuple[str, int]]:
    """(text, offset) of each answer; offset -1 where MRQA's text differs from its span."""
    if "detected_answers" in qa:
        for answer in field(qa, "detected_answers", where, list):
            text = as_text(field(answer, "text", where), where)
            for start, end in _char_spans(answer, where):
                span = context[start : end + 1]  # MRQA's ends are inclusive
                same = start >= 0 and span.split() == text.split()
                # Detection ignored case and white space, so the context's own form counts.
                same = same or (start >= 0 and _plain(span) == _plain(text))
                yield (span, start) if same else (text, -1)
        return
    answers = field(qa, "answers", where, (list, Mapping))
    if isinstance(answers, Mapping):
        texts, starts = field(answers, "text", where), field(answers, "answer_start", where)
        for text, start in zip(texts, starts, strict=True):
            yield as_text(text, where), start if isinstance(start, int) else -1
        return
    for answer in answers:
        if not isinstance(answer, Mapping):
            raise DataError(f"An answer of {where} has no offset: expected 'answer_start'.")
        start = field(answer, "answer_start", where, int)
        yield as_text(field(answer, "text", where), where), start


def _accepted(qa: Mapping[str, Any], where: str, found: Container[str]) -> tuple[str, ...]:
    """The texts that MRQA lists beside its detected answers, without those that were found."""
    if "detected_answers" not in qa or qa.get("answers") is None:
        return ()
    listed = field(qa, "answers", where, list)
    if not all(isinstance(text, str) for text in listed):
        raise DataError(f"'answers' of {where} holds {listed!r:.80}; expected texts.")
    others = {_plain(text): text for text in listed if text.strip()}
    return tuple(text for plain, text in others.items() if plain not in found)


def _char_spans(answer: Mapping[str, Any], where: str) -> Iterator[tuple[int, int]]:
    for span in field(answer, "char_spans", where, list):
        if not (isinstance(span, list) and [type(end) for end in span] == [int, int]):
            raise DataError(f"'char_spans' of {where} holds {span!r}; expected [start, end].")
        yield span[0], span[1]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
