"""Recordings of a program as CUDA graphs: one launch for a whole iteration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlgrad.captured.program import Program

WARM_UP = 3  # plain iterations before a recording: libraries allocate and choose on first use

Numbers = dict[str, Tensor]


class Graphs:
    """A program's recordings, one for each number of critic steps, with and without measuring.

    They share one pool of memory: nothing in it outlives a replay but the measured numbers, which
    are to be read before the next one.

    Args:
        program: on a CUDA device.
        critic_steps: of the iteration that comes next.

    Raises:
        RuntimeError: where it cannot be recorded; then the program stands where it stood.
    """

    def __init__(self, program: Program, critic_steps: int) -> None:
        self.program, self.pool = program, torch.cuda.graph_pool_handle()
        self.recorded: dict[tuple[int, bool], tuple[Any, Numbers]] = {}
        with program.unchanged():
            self._prepare(critic_steps)

    def _prepare(self, critic_steps: int) -> None:
        """Warm up on a side stream, then record with and without measuring."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(WARM_UP + 1):
                self.program(critic_steps, measure=i == WARM_UP)
        torch.cuda.current_stream().wait_stream(side)
        for measure in (False, True):
            self.recorded[critic_steps, measure] = self._record(critic_steps, measure)

    def _record(self, critic_steps: int, measure: bool) -> tuple[Any, Numbers]:
        """(graph, what it measures, in memory of its own); runs nothing."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            numbers = self.program(critic_steps, measure)
        return graph, numbers

    def __call__(self, critic_steps: int, measure: bool = False) -> Numbers:
        """As the program, by a replay, which the host does not wait for."""
        key = critic_steps, measure
        if key not in self.recorded:
            self.recorded[key] = self._record(*key)
        graph, numbers = self.recorded[key]
        graph.replay()
        return numbers
