"""The caller's settings of torch, put aside while rlgrad trains: no bit may hang on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


def _flushes() -> bool:
    """Whether this thread takes denormal numbers for zero; torch can set that, but not tell it."""
    return not bool(torch.full((), 1e-40, dtype=torch.float32, device="cpu"))


@contextmanager
def plain() -> Iterator[None]:
    """One thread, float32, gradients, denormal numbers, no autocast; then the caller's own again.

    Only settings of the calling thread and process are meant, not environment variables that
    choose instructions; see docs/limits.md.
    """
    threads, dtype, flushes = torch.get_num_threads(), torch.get_default_dtype(), _flushes()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_num_threads(1)  # small networks: a second thread only waits
        torch.set_default_dtype(torch.float32)
        torch.set_flush_denormal(False)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.set_flush_denormal(flushes)
