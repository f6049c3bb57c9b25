"""The arms of the comparison: the paper's two, as published and set right, and the family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from relax_paper import HIDDEN, Control, PublicRelax, Regressed

from rlgrad.estimators import Estimator, build

FEATURES, ACTIONS = 4, 2


class Arm(NamedTuple):
    """An agent of the comparison."""

    label: str
    make: Callable[[int], Estimator]
    """Of S seeds."""
    critic: Literal["", "value", "mean value", "action value"] = ""
    """What is fitted to returns beside the estimator: V, V averaged over the episode, Q."""
    objective: str = "batch"
    """Whose squared norm a control variate descends."""
    rates: int = 2
    """Step sizes that there are: the policy's, and that of all else."""


def plain(name: str, **options: Any) -> Callable[[int], Estimator]:
    """An estimator of the package, with the paper's widths where it has networks."""
    return lambda S: build(name, 1, ACTIONS, FEATURES, S, **options)


def relax(coupling: str = "independent", sees_action: bool = True) -> Callable[[int], Estimator]:
    """The package's RELAX with the paper's control variate."""

    def make(S: int) -> Estimator:
        control = Control(FEATURES, ACTIONS, S, sees_action)
        return build("relax", 1, ACTIONS, FEATURES, S, coupling=coupling, control=control)

    return make


def public(S: int) -> Estimator:
    """RELAX with the public code's sampler."""
    control = Control(FEATURES, ACTIONS, S)
    return PublicRelax(1, ACTIONS, FEATURES, S, control=control)


def scaled_value(S: int) -> Estimator:
    """A2C whose V has the trained scale of RELAX's c."""
    control = Control(FEATURES, ACTIONS, S, sees_action=False)
    return Regressed(1, ACTIONS, FEATURES, S, control=control)


WIDTHS = {"hidden": HIDDEN}
ARMS = {
    "a2c-public": Arm("A2C, public code", plain("reinforce"), "mean value"),
    "a2c": Arm("A2C", plain("reinforce"), "value"),
    "a2c-scaled": Arm("A2C, V with c's scale", scaled_value),
    "relax-public": Arm("RELAX, public sampler", public),
    "relax": Arm("RELAX, exact sampler", relax()),
    "relax-logits": Arm("RELAX, norm per step", relax(), objective="logits"),
    "relax-state": Arm("RELAX, c of the state alone", relax(sees_action=False)),
    "relax-linear": Arm("RELAX, least squares", plain("relax-linear"), rates=1),
    "rebar": Arm("REBAR", plain("rebar", eta=0.0), "action value", "logits"),
    "muprop": Arm("MuProp", plain("muprop"), "action value"),
    "all-action-control": Arm("all-action control", plain("all-action-control", **WIDTHS)),
    "all-action": Arm("all-action", plain("all-action", **WIDTHS)),
    "gumbel-softmax": Arm("Gumbel-softmax", plain("gumbel-softmax"), "action value"),
    "straight-through": Arm("straight-through", plain("straight-through"), "action value"),
    "constant": Arm("constant baseline", plain("constant"), rates=1),
    "reinforce": Arm("REINFORCE", plain("reinforce"), rates=1),
}
