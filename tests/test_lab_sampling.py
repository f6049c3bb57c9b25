"""What the laboratory gathers is put together whole, whatever the widths of its parts."""

from __future__ import annotations

import torch

from rlgrad.lab.sampling import joined
from rlgrad.rollout import Rollout


def part(columns: int, steps: int, final: bool) -> Rollout:
    shape = (1, steps, columns)
    seen = torch.full((*shape, 3), float(columns))
    flag = torch.zeros(shape, dtype=torch.bool)
    fields = dict.fromkeys(Rollout._fields, torch.zeros(shape))
    fields |= {"observation": seen, "valid": ~flag, "terminated": flag, "truncated": flag}
    fields |= {"last": seen[:, 0], "final": seen if final else None}
    return Rollout(**fields)


def test_parts_of_other_widths_get_the_final_observations_that_they_lack():
    # The second part has final observations, the first and the third have none.
    whole = joined([part(2, 4, False), part(5, 4, True), part(3, 2, False)])
    assert whole.final.shape == whole.observation.shape == (1, 4, 10, 3)
    assert whole.final[:, :, 2:7].eq(5).all()
    assert whole.final[:, :, :2].eq(0).all()
    assert whole.final[:, :, 7:].eq(0).all()
