"""Question and context as windows of tokens with character offsets: the features of QA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from envs.tasks.task import Feature

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from envs.text.examples import QuestionExample

MAX_QUESTION_TOKENS = 64
"""Longer questions are cut to their first tokens."""
TOKENIZER_BATCH = 1000


class QuestionWindows:
    """Cuts contexts into windows that fit, the whole question before each of them.

    Token targets are those of the first reference answer. A window without it, and every window of
    an impossible question, targets the null position: the [CLS] token, or index 0 where the
    tokenizer has none.

    Args:
        tokenizer: a fast tokenizer of any family.
        max_length: longest window in tokens, question and special tokens included.
        stride: tokens that neighbouring windows share.

    Raises:
        ValueError: if the tokenizer is not a fast one or a window would not move forward.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is not a fast tokenizer and gives no character "
                "offsets; question answering needs one (a tokenizer.json)."
            )
        room = max_length - MAX_QUESTION_TOKENS - tokenizer.num_special_tokens_to_add(pair=True)
        if room <= 0:
            raise ValueError(
                f"The inputs are {max_length} tokens long at most (the model's limit, or "
                f"max_length), of which the question may take {MAX_QUESTION_TOKENS}: no room is "
                "left for a context. Question answering needs a model, or a max_length, of more."
            )
        if not 0 <= stride < room:
            raise ValueError(
                f"stride is {stride}; with max_length {max_length} and a question of up to "
                f"{MAX_QUESTION_TOKENS} tokens it must be at least 0 and below {room}. "
                "Lower the stride, or raise max_length."
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.stride = stride
        # XLNet's family ends with [CLS]; the others begin with it or have none.
        last = tokenizer("a", "a", verbose=False)["input_ids"][-1]
        self._null_is_last = tokenizer.cls_token_id is not None and last == tokenizer.cls_token_id

    def features(self, examples: Sequence[QuestionExample]) -> list[Feature]:
        """Every window of every example, in order.

        Raises:
            ValueError: if an example has no answer and is not marked impossible.
        """
        result: list[Feature] = []
        for first in range(0, len(examples), TOKENIZER_BATCH):
            result.extend(self._encode(examples[first : first + TOKENIZER_BATCH]))
        return result

    def _encode(self, examples: Sequence[QuestionExample]) -> Iterator[Feature]:
        for example in examples:
            if not example.answers and not example.is_impossible:
                raise ValueError(
                    f"Question {example.id!r} has no answer and is not marked impossible; "
                    "give it an answer or set is_impossible."
                )
        encoded = self.tokenizer(
            self._questions(examples),
            [example.context for example in examples],
            truncation="only_second",
            max_length=self.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        owners = np.asarray(encoded["overflow_to_sample_mapping"])
        bounds = np.searchsorted(owners, np.arange(len(examples) + 1))
        words = _WordStarts()
        for number, example in enumerate(examples):
            rows = range(bounds[number], bounds[number + 1])
            spans = [_context_offsets(encoded, row, words(example.context)) for row in rows]
            targets = self._targets(example, spans)
            for row, offsets, target in zip(rows, spans, targets, strict=True):
                yield _feature(encoded, row, offsets, target, example)

    def _questions(self, examples: Sequence[QuestionExample]) -> list[str]:
        """The questions, the too long ones cut."""
        questions = [example.question.strip() for example in examples]
        encoded = self.tokenizer(
            questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        for number, offsets in enumerate(encoded["offset_mapping"]):
            # Cut words may fall into more pieces than before, hence the second look.
            while len(offsets) > MAX_QUESTION_TOKENS:
                question = questions[number]
                end = min(offsets[MAX_QUESTION_TOKENS - 1][1], len(question) - 1)
                questions[number] = question[:end]
                offsets = self.tokenizer(
                    questions[number], add_special_tokens=False, return_offsets_mapping=True
                )["offset_mapping"]
        return questions

    def _targets(
        self, example: QuestionExample, spans: Sequence[np.ndarray]
    ) -> list[tuple[int, int]]:
        """Start and end token of the first answer in each window, the null position if not there.

        The first window reaches back to the beginning of the context and the last one to its end,
        whatever characters the tokenizer dropped there.
        """
        nulls = [self.null_index(len(offsets)) for offsets in spans]
        targets = [(null, null) for null in nulls]
        if example.is_impossible:
            return targets
        text, first = example.answers[0]
        first += len(text) - len(text.lstrip())
        last = first + len(text.strip())
        covers = [_cover(offsets) for offsets in spans]
        begin, end = min(c[0] for c in covers), max(c[1] for c in covers)
        for number, (offsets, cover) in enumerate(zip(spans, covers, strict=True)):
            whole = (first >= cover[0] or cover[0] == begin) and (
                last <= cover[1] or cover[1] == end
            )
            inside = np.flatnonzero((offsets[:, 0] < last) & (offsets[:, 1] > first))
            if whole and len(inside):
                targets[number] = (int(inside[0]), int(inside[-1]))
        return targets

    def null_index(self, length: int) -> int:
        """The position of "no answer" in a window of ``length`` tokens."""
        return length - 1 if self._null_is_last else 0


class _WordStarts:
    """For every character position of a text, the next one that holds no whitespace.

    Remembers the last text: questions about one context come together.
    """

    def __init__(self) -> None:
        self._text: str | None = None
        self._starts = np.zeros(1, dtype=np.int32)

    def __call__(self, text: str) -> np.ndarray:
        if text is not self._text:
            positions = np.arange(len(text) + 1, dtype=np.int32)
            positions[:-1][[character.isspace() for character in text]] = len(text)
            self._starts = np.minimum.accumulate(positions[::-1])[::-1]
            self._text = text
        return self._starts


def _context_offsets(encoded: BatchEncoding, row: int, word_starts: np.ndarray) -> np.ndarray:
    """Character spans of the context's tokens, (n, 2) int32, (-1, -1) for the others.

    Byte-level and SentencePiece tokens may hold the space before a word; their spans do not.
    """
    offsets = np.array(encoded["offset_mapping"][row], dtype=np.int32).reshape(-1, 2)
    in_context = np.array([number == 1 for number in encoded.sequence_ids(row)], dtype=bool)
    offsets[~in_context] = -1
    starts = word_starts[offsets[in_context, 0]]
    offsets[in_context, 0] = np.minimum(starts, offsets[in_context, 1])
    return offsets


def _feature(
    encoded: BatchEncoding,
    row: int,
    offsets: np.ndarray,
    target: tuple[int, int],
    example: QuestionExample,
) -> Feature:
    input_ids = np.array(encoded["input_ids"][row], dtype=np.int32)
    if "token_type_ids" in encoded:
        token_type_ids = np.array(encoded["token_type_ids"][row], dtype=np.int8)
    else:
        token_type_ids = np.zeros(len(input_ids), dtype=np.int8)
    return Feature(input_ids, token_type_ids, target, example, offsets)


def _cover(offsets: np.ndarray) -> tuple[int, int]:
    """First and last character of the window."""
    inside = offsets[offsets[:, 0] >= 0]
    return (int(inside[0, 0]), int(inside[-1, 1])) if len(inside) else (0, 0)
