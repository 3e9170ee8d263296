"""The C library's allocator, told to keep what is freed.

Left to itself, glibc returns every large block to the system as its tensor is freed, and asks for it again, page by
page, for the next tensor of that size. A training step, whose sizes are those of the step before, loses a tenth of its
time that way, and gains nothing: its peak is the same.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT = 2**25  # bytes; glibc takes no larger one for M_MMAP_THRESHOLD
_MOST_KEPT = 2**30


def keep_freed() -> None:
    """Let this process reuse freed memory from now on; without glibc, nothing happens."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
