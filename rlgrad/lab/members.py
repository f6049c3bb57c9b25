"""Which estimators an environment can serve, and in which variants they are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rlgrad import card_files, cards
from rlgrad.config import short_name
from rlgrad.errors import UsageError
from rlgrad.estimators import ESTIMATORS, Estimator, build, options
from rlgrad.estimators.build import lookup
from rlgrad.lab.freeze import Frozen, seeded
from rlgrad.preflight import estimator_options

# Options worth a row of their own, by what the row is called beside the estimator's name; they
# override those of the estimator's card.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "constant": {
        "": {"constant": "mean", "decay": 1.0},
        "optimal": {"constant": "optimal", "decay": 1.0},
        "per logit": {"constant": "optimal-per-logit", "decay": 1.0},
    },
    "learned": {
        "": {"objective": "regression"},
        "on variance": {"objective": "variance"},
        "per logit": {"objective": "variance", "per_logit": True},
    },
    "rebar": {"": {"eta": 0.0}},
    "relax": {"": {}, "of z": {"temperature": 0.0, "coupling": "independent"}},
    "relax-linear": {
        "": {"form": "relaxed", "decay": 1.0},
        "exact sum": {"form": "exact-sum", "decay": 1.0},
    },
}
CARDS = {
    "constant": "reinforce-constant",
    "learned": "reinforce-learned",
    "relax": "relax-network",
    "relax-linear": "relax",
    "gumbel-rao": "straight-through",
    "reinmax": "straight-through",
}
BASELINE = "reinforce"
# Unbiased because a score has mean zero, and for no other reason: the others are held to them.
SCORES = ("reinforce", "constant", "learned")
# Untrained they are another estimator's row, or nothing at all.
TRAINED_ONLY = ("all-action",)


@dataclass(frozen=True)
class Refusal:
    """An estimator that an environment cannot serve, and why."""

    estimator: str
    reason: str


@dataclass(frozen=True)
class Member:
    """A row to be: an estimator in one variant at one stage."""

    estimator: str
    variant: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    trained: bool | None = None
    """None: it has nothing to train."""

    @property
    def label(self) -> str:
        """The estimator with what tells its rows apart."""
        stage = {None: "", False: "untrained", True: "trained"}[self.trained]
        return " ".join(filter(None, [short_name(self.estimator), self.variant, stage]))

    def made(self, frozen: Frozen, size: float) -> Estimator:
        """The estimator, untrained, with the same parameters at each stage.

        Args:
            frozen: policy.
            size: of a credit (root mean square), at which its networks start.
        """
        learner = frozen.learner
        chosen = dict(self.options)
        if "scale" in options(self.estimator):
            chosen["scale"] = size
        factors, categories = learner.shape
        with seeded(frozen.seed):
            return build(self.estimator, factors, categories, learner.features, 1, **chosen)


def refusal(name: str) -> str | None:
    """Why an environment cannot serve an estimator; None where it can."""
    traits = lookup(name).traits
    if traits.enumerable:
        return "needs f at every action, and an environment gives it at the one taken"
    if traits.values > 1:
        binary = " of a binary choice" if traits.binary else ""
        return f"needs {traits.values} values of f{binary}, and an environment gives one"
    return None


def _options(name: str, frozen: Frozen) -> dict[str, Any]:
    """What the estimator's card says for the environment, with the agent's own widths."""
    card = CARDS.get(name, name)
    known = card in card_files.find("agents")
    config = cards.resolve(frozen.env.id, card).config if known else frozen.config
    if config.estimator != name:
        unset: dict[str, Any] = dict.fromkeys(("draws", "width", "form", "coupling", "eta"))
        config = dataclasses.replace(config, estimator=name, **unset)
    if frozen.config.estimator == name:
        config = frozen.config
    return estimator_options(dataclasses.replace(config, hidden=frozen.config.hidden))


def members(
    frozen: Frozen, estimators: Iterable[str] | None, train: bool = True
) -> tuple[list[Member], list[Refusal]]:
    """Rows to measure, the baseline first, and what cannot be served.

    Args:
        frozen: policy.
        estimators: names; None: all there are. The baseline is always measured.
        train: whether trained ones are listed trained, too.

    Raises:
        UsageError: for an unknown name, or where none of them can be served.
    """
    names = list(dict.fromkeys(ESTIMATORS if estimators is None else estimators))
    reasons = {name: refusal(name) for name in names}
    refused = [Refusal(name, reason) for name, reason in reasons.items() if reason]
    if len(refused) == len(names):
        raise UsageError("; ".join(f"estimator {r.estimator} {r.reason}" for r in refused))
    served = [name for name in names if not reasons[name]]
    found = []
    for name in dict.fromkeys([BASELINE, *served]):
        base = _options(name, frozen)
        for variant, changed in VARIANTS.get(name, {"": {}}).items():
            both = {**base, **changed}
            trained = lookup(name).traits.trained
            stages = (False, True)[name in TRAINED_ONLY : 1 + train]
            for stage in stages if trained else (None,):
                found.append(Member(name, variant, both, stage))
    return found, refused
