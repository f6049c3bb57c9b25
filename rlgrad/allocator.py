"""How processes of our own treat memory that was freed."""

from __future__ import annotations

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to a gigabyte; elsewhere do nothing.

    By default it gives those of every rollout back to the system, and each page of the next one
    costs a fault: an eighth of an iteration at thousands of environments. It holds for the whole
    process, so a library must not ask for it in its user's process, but a command may.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    mallopt(_TRIM_THRESHOLD, _BYTES)
    mallopt(_MMAP_THRESHOLD, _BYTES)
