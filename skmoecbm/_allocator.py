"""Memory that the C library gives back after every layer and fetches again for the next."""

import ctypes
import functools
import os
import platform

__all__ = ["keep_freed_memory", "return_freed_memory"]

# mallopt's numbers in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MIB = 2**20
# Activations of eight images of 224 pixels take up to 20 MiB a tensor.
_MMAP_THRESHOLD = 64 * _MIB
_OLD_MMAP_THRESHOLD = 32 * _MIB  # the most that older versions of glibc take
_TRIM_THRESHOLD = 256 * _MIB


@functools.cache
def keep_freed_memory():
    """Let this process keep up to 256 MiB of freed memory for its next tensors.

    By default glibc returns a large tensor's memory when it is freed, and every layer of a network
    waits for the kernel to clear new pages: up to a sixth of the time of a pass. Set once, when
    the first large network runs on a processor; never at import. Other C libraries are left
    alone, and so is a process whose environment sets malloc's thresholds itself.

    Returns
    -------
    bool
        Whether the thresholds were set.
    """
    set_by_user = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
    if any(name in os.environ for name in set_by_user):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    kept = any(mallopt(_M_MMAP_THRESHOLD, n) for n in (_MMAP_THRESHOLD, _OLD_MMAP_THRESHOLD))
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))


@functools.cache
def _trim():
    """Return glibc's malloc_trim, or None where the C library is another one."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None


def return_freed_memory():
    """Give the system back what this process has freed and glibc keeps in gaps.

    Matrices of some MB, made and freed step by step among blocks of rows of other sizes, leave
    gaps that add up to more than the matrices. Takes a few milliseconds, and the next steps wait
    for cleared pages: only where a step takes seconds.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
