"""What is said of texts that are longer than a model reads."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BatchEncoding

logger = logging.getLogger(__name__)


class CutTexts:
    """Warns of texts that were cut: of each kind once, since the deals of a run are much alike."""

    def __init__(self) -> None:
        self._told: set[tuple[str, bool]] = set()

    def count(self, encoded: BatchEncoding, kind: str, limit: int, *, training: bool) -> None:
        """Warn if texts of this kind were cut, the first time; later that is of level INFO.

        Args:
            encoded: by a fast tokenizer, cut.
            kind: ``texts``, ``sources`` or ``targets``.
            limit: tokens to which they were cut.
            training: whether they are trained on; what is scored on is another kind.
        """
        cut = sum(bool(encoding.overflowing) for encoding in encoded.encodings or [])
        if not cut:
            return
        level = logging.INFO if (kind, training) in self._told else logging.WARNING
        self._told.add((kind, training))
        message = "%d of %d %s are longer than %d tokens and were cut."
        logger.log(level, message, cut, len(encoded["input_ids"]), kind, limit)
