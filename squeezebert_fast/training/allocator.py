"""Memory that tensors give back is kept for the next step's.

glibc fetches each block of 32 MB or more from the system, and gives it back at once. The next step gets it page by
page, each of them cleared: 24,000 page faults in a step of `pretrain` with 30,522 words, 40 of its 190 ms.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library, for this whole process, to give no freed memory back; returns whether it does.

    Only glibc is asked. What the process takes at most doesn't change, but it takes that until it ends.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has nothing to ask
        return False
    return all(library.mallopt(name, LARGEST) == 1 for name in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
