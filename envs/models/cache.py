"""Where what was made once is kept: trained heads, testbed models, compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``NMG_CACHE`` or ``~/.cache/nmg``."""
    return Path(os.environ.get("NMG_CACHE") or Path.home() / ".cache" / "nmg")
