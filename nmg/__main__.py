"""``python -m nmg`` is the command ``nmg``."""

from nmg.cli import run

run()
