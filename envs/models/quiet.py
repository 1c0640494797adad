"""Keeps transformers' reports and bars out of the programs' own output."""

from __future__ import annotations


class quiet:
    """No load report, no progress bar over tensors; put back afterwards."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._level, self._bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bar:
            logging.enable_progress_bar()
