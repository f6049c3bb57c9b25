"""Sees all that an environment returns, as it comes: its form, and who writes into it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from rlgrad.checking.findings import Collector
from rlgrad.checking.forms import Forms, array, arrays
from rlgrad.checking.playing import equal

KEPT = 8  # results that are watched for later writes into them
PARTS = ("observation", "reward", "terminated", "truncated", "info")


class StopError(Exception):
    """What came cannot be read any further; the fault has been noted."""


class Watch:
    """Judges every result of a play; its call is the play's hook.

    Args:
        forms: of single results.
        mode: of the autoreset.
        found: where faults go.
    """

    def __init__(self, forms: Forms, mode: AutoresetMode, found: Collector) -> None:
        self.forms, self.mode, self.found = forms, mode, found
        self.kept: deque[tuple[str, list[Any], list[Any]]] = deque(maxlen=KEPT)

    def __call__(self, name: str, raw: Any) -> None:
        """Judge what ``reset`` or ``step`` returned.

        Raises:
            StopError: where it cannot be read.
        """
        self._earlier(name)
        is_step, where = name.startswith("step"), f"at {name}"
        if not isinstance(raw, tuple) or len(raw) != (5 if is_step else 2):
            came = f"a tuple of {len(raw)}" if isinstance(raw, tuple) else type(raw).__name__
            expected = "(observation, reward, terminated, truncated, info)"
            expected = expected if is_step else "(observation, info)"
            method = "step" if is_step else "reset"
            self.found.add("interface", f"{method} returned {came}; expected {expected}")
            raise StopError
        usable = self.forms.observation("the observation", raw[0], where)
        if is_step:
            usable &= self.forms.numbers("reward", raw[1], "fiu", where)
            for flag, x in zip(PARTS[2:4], raw[2:4], strict=True):
                usable &= self.forms.numbers(flag, x, "b", where)
        self.forms.info(raw[-1], where)
        if not usable or not isinstance(raw[-1], dict):
            raise StopError
        if is_step and self.mode is AutoresetMode.SAME_STEP:
            self._mask(raw, where)
        given = list(arrays(raw))
        self.kept.append((name, given, [array(x) for x in given]))

    def _earlier(self, name: str) -> None:
        """Whether results of earlier calls are still what they were."""
        for earlier, given, copies in self.kept:
            if not equal(copies, [array(x) for x in given]):
                text = "what was returned is overwritten by a later call"
                self.found.add("buffer", text, f"what {earlier} returned, by {name}")
                self.kept.clear()
                return

    def _mask(self, raw: Any, where: str) -> None:
        """SAME_STEP: ``_final_obs`` marks exactly the lanes whose episode ended."""
        over = array(raw[2]).astype(bool) | array(raw[3]).astype(bool)
        info, mask = raw[4], raw[4].get("_final_obs")
        if "final_obs" in info and mask is None:
            text = "info has final_obs without _final_obs: which rows count, the flags must tell"
            self.found.notes.append(text)
        elif mask is not None and not np.array_equal(array(mask), over):
            text = "SAME_STEP: info['_final_obs'] does not mark the lanes whose episode ended"
            self.found.add("autoreset", text, where)


def _fill(x: Any) -> None:
    """Write something else into an array or tensor, where it lets us."""
    if isinstance(x, torch.Tensor):
        x.fill_(1 if x.dtype == torch.bool else 77)
    elif x.flags.writeable:
        x.fill(1 if x.dtype == np.bool_ else 77)


class Spoiler:
    """Writes into all that is returned, one array at a time: none may show through another."""

    def __init__(self, found: Collector) -> None:
        self.found = found

    def __call__(self, name: str, raw: Any) -> None:
        """Spoil one result."""
        labels = [
            part
            for part, x in zip((*PARTS[: len(raw) - 1], "info"), raw, strict=True)
            for _ in arrays(x)
        ]
        given = list(arrays(raw))
        for i, x in enumerate(given):
            others = [array(each) for each in given]
            _fill(x)
            for j, (each, copy) in enumerate(zip(given, others, strict=True)):
                if j != i and not equal([copy], [array(each)]):
                    text = f"{labels[i]} and {labels[j]} share memory in one result"
                    self.found.add("buffer", text, f"at {name}")
