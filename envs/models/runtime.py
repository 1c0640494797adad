"""Process-wide settings of the machine's libraries that make the inner loop faster, results equal.

Called once by the programs before any work; library users may call it too.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch

from envs.models.native.library import instruction_set
from envs.models.native.products import multiply, use_exact_tiles

Precision = Literal["auto", "fp32", "bf16"]

PRIMITIVES = "512"
"""Kernels that oneDNN keeps compiled, one for each shape of a product. Lengths are rounded
(``rounding.py``), so that this many serve; more, as it keeps by default, lie scattered between the
freed activations and pin them."""
EXACT = 2e-6
"""Largest relative error of a matrix product that still counts as float32 (usual: 3e-7)."""
HEAP = 1 << 30
"""Bytes of the heap that are laid on huge pages before they are used; what a small model needs."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 1 << 21


@dataclass(frozen=True)
class Runtime:
    """What was set, for the log.

    Attributes:
        threads: threads of one process; jobs run side by side in processes instead.
        gemm: path of float32 matrix products: ``amx``, ``onednn`` or ``default``.
        gemm_error: its relative error against float64.
        allocator: whether freed memory is kept.
        huge_pages: whether the heap lies on huge pages.
        native: instructions of the C code for attention and dropout; None where torch does it.
    """

    threads: int
    gemm: str
    gemm_error: float
    allocator: bool
    huge_pages: bool
    native: str | None


def tune_runtime(threads: int = 1) -> Runtime:
    """Set threads, the fastest exact float32 matrix product, the allocator and kernel caches, and
    compile the C code where it is not yet."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRIMITIVES)
    torch.set_num_threads(threads)
    allocator = keep_freed_memory()
    huge_pages = allocator and use_huge_pages()
    gemm, error = use_fast_exact_gemm()
    return Runtime(threads, gemm, error, allocator, huge_pages, instruction_set())


def use_fast_exact_gemm() -> tuple[str, float]:
    """Send float32 matrix products to matrix instructions, or oneDNN, where that stays float32.

    On processors with matrix instructions for bfloat16 the products of three parts of a float32
    each are as exact as float32 and faster (``native/products.c``).

    PyTorch's switch is named after the precision it *permits*. On processors without such
    instructions oneDNN still multiplies in float32, and does so twice as fast as the default
    library on AMD. Elsewhere the same switch really lowers the precision, so the error is measured
    and the switch put back if it is not that of float32.

    Returns:
        The path in use and its relative error.
    """
    if use_exact_tiles():
        error = gemm_error()
        if error <= EXACT:
            return "amx", error
        use_exact_tiles(False)
    backend: Any = torch.backends.mkldnn
    switch = backend.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    error = gemm_error()
    if error <= EXACT:
        return "onednn", error
    switch.fp32_precision = before
    return "default", gemm_error()


def gemm_error() -> float:
    """Relative error of a float32 matrix product against float64, on fixed numbers."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(256, 384, generator=generator)
    b = torch.randn(384, 512, generator=generator)
    exact = a.double() @ b.double()
    return float((multiply(a, b).double() - exact).norm() / exact.norm())


def choose_precision(precision: Precision, device: str | torch.device) -> Precision:
    """``auto`` is bf16 on a GPU and float32 on a CPU, where bf16 must be asked for."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; it must be auto, fp32 or bf16.")
    if precision != "auto":
        return precision
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


def check_device(device: str | torch.device) -> None:
    """See to it that there is such a device, before anything is loaded.

    Raises:
        ValueError: if there is not.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {str(device)!r}; it must be cpu, cuda or cuda:N.")
    found = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= found:
        raise ValueError(
            f"device is {str(device)!r}, but torch finds {found or 'no'} "
            f"GPU{'' if found == 1 else 's'} here; give another --device, such as cpu."
        )


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory: returning and zeroing pages costs a third of the time.

    Returns:
        Whether the C library took the settings.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _M_MMAP_THRESHOLD: HEAP,
        _M_TRIM_THRESHOLD: (1 << 31) - 1,
        _M_TOP_PAD: 64 << 20,
    }
    return all(mallopt(option, value) == 1 for option, value in settings.items())


@cache
def use_huge_pages() -> bool:
    """Grow the heap by :data:`HEAP` bytes of address space that the kernel may back by huge pages.

    A page of 4 KiB is faulted in, zeroed and looked up 512 times as often. No memory is taken
    before it is used. To be called when freed memory is kept, else the C library gives the space
    back.

    Returns:
        Whether the kernel agreed.
    """
    try:
        libc = ctypes.CDLL(None)
        sbrk, madvise, malloc, free = libc.sbrk, libc.madvise, libc.malloc, libc.free
    except (OSError, AttributeError):
        return False
    sbrk.restype, sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    first = -(-sbrk(0) // _HUGE_PAGE) * _HUGE_PAGE
    free(malloc(HEAP - (1 << 20)))  # below the size that gets a mapping of its own
    size = sbrk(0) // _HUGE_PAGE * _HUGE_PAGE - first
    return size > 0 and madvise(first, size, _MADV_HUGEPAGE) == 0
