"""The C code of this package, compiled on first use.

It takes a C compiler (``cc``, or ``CC``); without one, or with ``NMG_NATIVE=0``, torch and NumPy
compute the same. The library is kept under ``NMG_CACHE`` by the hash of its source.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from envs.models.cache import cache_folder

SOURCES = ("attention.c", "layers.c", "products.c", "dropout.c")
HEADERS = ("sets.h", "vectors.h", "attention.h", "amx.h", "tiles.h", "layers.h")
FLAGS = (
    *("-O3", "-std=gnu11", "-shared", "-fPIC"),
    *("-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=fast"),
)
INSTRUCTION_SETS = ("any", "avx2", "avx512", "avx512_bf16", "amx")
"""As ``sets.h`` numbers them."""
COMPILE_SECONDS = 120


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library, made first where it is missing; None if there can be none. The
    environment is asked once."""
    return None if os.environ.get("NMG_NATIVE") == "0" else _load()


@cache
def instruction_set() -> str | None:
    """The instructions that the C code uses here; None without the library."""
    found = library()
    return None if found is None else INSTRUCTION_SETS[found.nmg_best()]


def set_number() -> int:
    """The instructions as the C code numbers them."""
    return INSTRUCTION_SETS.index(instruction_set() or "any")


def runs_here(x: Tensor) -> bool:
    """Whether the C code takes a tensor: it is for float32 and bfloat16 and one thread of a CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.get_num_threads() == 1
        and library() is not None
    )


def _load() -> ctypes.CDLL | None:
    source = Path(__file__).parent
    content = b"".join((source / name).read_bytes() for name in (*SOURCES, *HEADERS))
    try:
        compiler = _compiler()
        described = [*compiler, *FLAGS, platform.machine(), platform.system()]
        key = hashlib.sha256(content + repr(described).encode()).hexdigest()[:16]
        path = _folder() / f"nmg-{key}.so"
        if not path.exists():
            if not compiler or shutil.which(compiler[0]) is None:
                return None
            _compile([*compiler, *FLAGS, *(str(source / name) for name in SOURCES), "-lm"], path)
        _check_owner(path)
        return ctypes.CDLL(str(path))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip()[:500]
        warnings.warn(
            f"C code is not used, torch's operations are (NMG_NATIVE=0 asks for them): {words}",
            stacklevel=2,
        )
        return None


def _compiler() -> list[str]:
    given = os.environ.get("CC", "cc")
    try:
        return shlex.split(given)
    except ValueError as error:
        raise ValueError(f"CC is {given!r}, which is no command ({error})") from error


def _folder() -> Path:
    """Each user's own: a cache may be shared, code is not."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return cache_folder() / f"native{user}"


def _compile(command: Sequence[str], path: Path) -> None:
    """Whole or not at all, whoever else compiles it at the same time."""
    path.parent.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        subprocess.run(
            [*command, "-o", made], check=True, capture_output=True, text=True,
            timeout=COMPILE_SECONDS,
        )  # fmt: skip
        os.chmod(made, stat.S_IRWXU)
        os.replace(made, path)
    finally:
        Path(made).unlink(missing_ok=True)


def _check_owner(path: Path) -> None:
    """Code is loaded only from where nobody else can have written it.

    Raises:
        PermissionError: if somebody else can.
    """
    if not hasattr(os, "getuid"):
        return
    for place in (path, path.parent):
        found = place.stat()
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"others can write {place}; let NMG_CACHE be a folder of yours.")
