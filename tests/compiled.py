"""Trains compiled and not, without the hook that checks shapes, which a compiler cannot look into.

python tests/compiled.py DEVICE BACKEND; exits with 0 where both end close together.
"""

from __future__ import annotations

import sys

import pytest
import torch
from static import tensors_everywhere, trainer

from rlgrad.captured.engine import Captured
from rlgrad.captured.graphs import Graphs


def trained(device: str, backend: str | None) -> Captured:
    engine = Captured(trainer("relax", device), recorded=False)
    if backend:
        engine.program.compile(backend)
    if device == "cuda":
        engine.iterate = Graphs(engine.program, 4)
    for _ in range(6):
        engine.step()
    engine.read()
    return engine


def main() -> None:
    device, backend = sys.argv[1:]
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            tensors_everywhere(patch)
        usual, compiled = trained(device, None), trained(device, backend)
        assert [o.plain() for o in usual.outcomes] == [o.plain() for o in compiled.outcomes]
        expected = usual.state()[0]
        for key, x in compiled.state()[0].items():
            torch.testing.assert_close(x, expected[key], rtol=1e-2, atol=1e-3, msg=key)


if __name__ == "__main__":
    main()
