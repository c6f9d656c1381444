"""The memory of long runs on a CPU."""

import ctypes
import os


# Names in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Let glibc keep memory that is freed for the next allocation, until the process ends; return whether it does.

    By default glibc returns every large block to the kernel, so that each step of a training touches new pages, which
    takes up to half of its time. Other allocators, and the user's own settings in `VARIABLES`, stay as they are.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another allocator or operating system
        return False
    # -1: never trim. Blocks of any size come from the heap, which is kept.
    return bool(mallopt(M_TRIM_THRESHOLD, -1)) and bool(mallopt(M_MMAP_MAX, 0))
