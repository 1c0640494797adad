"""Lengths rounded up to few different ones.

oneDNN compiles a kernel for every new shape of a product or an activation, which takes longer than
to run it at the sizes of small models. Texts have all lengths; rounded, a few hundred kernels serve
for all jobs.
"""

from __future__ import annotations

ROW_PARTS = 32
"""Allowed lengths of a packed row to each power of two. Every layer computes its filling."""


def rounded(length: int, parts: int = 8) -> int:
    """The smallest allowed length that is not smaller; ``parts`` are allowed to each power of two.

    Multiples of 8 at least, so that short lengths have few, too.
    """
    step = max(8, (1 << (int(length) - 1).bit_length()) // (2 * parts))
    return -(-int(length) // step) * step
