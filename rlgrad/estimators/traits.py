"""What an estimator declares of itself, as data that tests, listings and refusals read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """What an estimator promises and what it needs; tests hold every member to its word."""

    unbiased: bool
    """Its mean is the gradient of E[f], whatever its own parameters are."""
    values: int = 1
    """Values of f it needs for one choice, at least; ``Estimator.values`` says how many (K)."""
    differentiable: bool = False
    """Needs f as a callable that accepts relaxed choices and is differentiable."""
    enumerable: bool = False
    """Needs f as a callable at every one-hot choice."""
    binary: bool = False
    """Serves factors of two categories only."""
    antithetic: bool = False
    """Its second draw takes the first one's Gumbel noise with the two categories swapped."""
    context: bool = False
    """Uses features of the state or input, where there are any."""
    trained: bool = False
    """Has parameters of its own, trained through ``loss``."""
    one_pass: bool = False
    """Valid only at the logits that drew the action: one gradient per rollout."""
    control_variate: bool = False
    """Has an action-dependent control variate."""
