"""Every hyperparameter of every agent: one documented line each; cards and flags only override."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlgrad.errors import UsageError, nearest, shown


@dataclass(frozen=True)
class Config:
    """Hyperparameters; the card's values are the defaults."""

    estimator: str = "reinforce"
    """Gradient estimator: how the credited value becomes a gradient at the logits; one of yours as
    my_package:MyEstimator."""
    signal: Literal["return-to-go", "n-step", "gae"] = "gae"
    """Value credited to an action: whole-episode return to go, or advantage over a critic."""
    total_timesteps: int = 100_000
    """Valid env steps per seed (also -n); rounded up to whole rollouts."""
    num_envs: int = 8
    """Environments per seed (lanes)."""
    num_steps: int = 32
    """Env steps per lane and rollout; return to go takes one whole episode instead."""
    max_episode_steps: int = 0
    """Truncate episodes after so many env steps; 0: the environment's own limit."""
    action_masks: Literal["auto", "on", "off"] = "auto"
    """Never take actions that info["action_mask"] forbids; auto: where the environment has it."""
    gamma: float = 0.99
    """Discount per env step."""
    gae_lambda: float = 0.95
    """Decay of the generalised advantage estimate; 1: Monte-Carlo, 0: one step."""
    n_step: int = 0
    """Rewards before bootstrapping for signal n-step; 0: up to the rollout's end."""
    learning_rate: float = 3e-3
    """Adam's step size of the policy."""
    critic_learning_rate: float = 5e-3
    """Adam's step size of the critic."""
    estimator_learning_rate: float = 3e-3
    """Adam's step size of the estimator's own networks (baseline, control variate)."""
    learning_rate_final: float = 0.2
    """Share of all step sizes left at the end of the linear schedule; 1: constant."""
    anneal_steps: int = 0
    """Env steps over which step sizes fall; 0: total-timesteps."""
    adam_beta2: float = 0.999
    """Adam's decay of squared gradients."""
    critic_steps: int = 4
    """Full-batch critic steps per rollout at the full step size; falls with it, to at least 1."""
    action_critic: bool = False
    """Learn Q(observation, relaxed action), for estimators that need a differentiable f."""
    estimator_steps: int = 1
    """Steps of the estimator's own networks per rollout, after the gradient is taken."""
    thinning: int = 1
    """A control variate's parameters, and the critic it is made of, learn from every nth step."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy, critic, baseline and control variate."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of policy and critic."""
    network: Literal["auto", "mlp", "cnn"] = "auto"
    """Policy and critic: perceptrons of --hidden, or convolutions with relu, of fixed widths;
    auto: convolutions where observations are images of bytes or flags."""
    entropy_coef: float = 0.0
    """Weight of the policy's entropy (nats), on credits divided by value-scale."""
    max_grad_norm: float = 0.0
    """Largest norm of a seed's policy gradient; 0: unclipped."""
    observation_scale: tuple[float, ...] = ()
    """Factors on the flattened observation; empty: running normalisation of Box observations."""
    reward_clip: float = 0.0
    """Learn from rewards cut to at most this size; reports keep the environment's own; 0: uncut."""
    normalize_observations: Literal["auto", "on", "off"] = "auto"
    """Running mean and deviation of every feature; auto: of floats without observation-scale."""
    value_scale: float = 0.0
    """Typical size of a return: multiplies critic outputs, divides credits; 0: measured."""
    normalize_rewards: bool = False
    """Divide rewards by the running deviation of the discounted return, in place of value-scale,
    and clip them at 10 of it; returns are reported as they are."""
    objective: Literal["logits", "environment", "batch"] = "logits"
    """Whose squared norm a control variate descends: per sample, per environment, batch mean."""
    temperature: float | None = None
    """Estimator option: temperature of the relaxation."""
    coupling: Literal["coupled", "independent"] | None = None
    """Estimator option: z shared with z~, or from the noise that drew the action."""
    eta: float | None = None
    """Estimator option: initial factor on a control variate made of f."""
    draws: int | None = None
    """Estimator option: relaxed choices per estimate."""
    form: Literal["relaxed", "exact-sum"] | None = None
    """Estimator option: relax-linear's view of the choice, relaxed or the choice itself."""
    width: int | None = None
    """Estimator option: random features of the state that relax-linear's control variate sees."""
    constant: Literal["mean", "optimal", "optimal-per-logit"] | None = None
    """Estimator option: which constant baseline."""
    decay: float | None = None
    """Estimator option: weight of the past in running baselines, per rollout."""
    centre: bool = False
    """Estimator option: subtract the running mean of what a learned baseline leaves."""
    normalise: bool = False
    """Estimator option: divide by the running deviation of what a learned baseline leaves."""
    fit: Literal["regression", "variance"] | None = None
    """Estimator option: what a learned baseline or q descends, squared error or the variance."""
    per_logit: bool = False
    """Estimator option: one learned baseline for each logit; goes with fit variance."""


ESTIMATOR_OPTIONS = (
    "temperature",
    "coupling",
    "eta",
    "draws",
    "form",
    "width",
    "constant",
    "decay",
    "centre",
    "normalise",
    "fit",
    "per_logit",
)
# An estimator's own name of an option, where a field of that name says something else here.
OPTION_NAMES = {"fit": "objective"}
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
# (least, most) allowed; None: open.
_RANGES: dict[str, tuple[float | None, float | None]] = {
    "total_timesteps": (1, None),
    "num_envs": (1, 1 << 20),
    "num_steps": (1, 1 << 20),
    "max_episode_steps": (0, 1 << 31),
    "gamma": (0, 1),
    "gae_lambda": (0, 1),
    "n_step": (0, None),
    "learning_rate": (0, None),
    "critic_learning_rate": (0, None),
    "estimator_learning_rate": (0, None),
    "learning_rate_final": (0, 1),
    "anneal_steps": (0, None),
    "adam_beta2": (0, 1 - 1e-9),
    "critic_steps": (1, 1000),
    "estimator_steps": (1, 1000),
    "thinning": (1, 1 << 20),
    "max_grad_norm": (0, None),
    "reward_clip": (0, None),
    "value_scale": (0, None),
    "temperature": (0, None),
    "draws": (1, 1 << 16),
    "width": (0, 1024),
    "decay": (1e-9, 1),
    "eval_freq": (0, None),
    "eval_episodes": (1, 1 << 20),
    "save_freq": (0, None),
    "keep_last": (0, None),
    "log_freq": (0, None),
    "rank_timeout": (1, 1 << 20),
}


def own_module(estimator: str | None) -> tuple[str, ...]:
    """The module of an estimator of the user's own, ``module:Class``; of others nothing."""
    module, colon, _ = (estimator or "").partition(":")
    return (module,) if colon else ()


def short_name(estimator: str) -> str:
    """What tables call an estimator: its name, or the class of ``module:Class``."""
    return estimator.rpartition(":")[2]


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as ``hint``; raises ValueError where it is not."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(value, inner[0])
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"one of {', '.join(map(repr, inner))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"a list of {inner[0].__name__}")
        return tuple(_convert(each, inner[0]) for each in value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is not float and type(value) is hint:
        return value
    raise ValueError(f"{_name(hint)}")


def check(values: Mapping[str, Any], where: str, kind: type = Config) -> dict[str, Any]:
    """Values of the right type and range for the fields of a dataclass.

    Args:
        values: field names to values, from a card or from keyword arguments.
        where: file and table, or "arguments", for the message.
        kind: the dataclass, ``Config`` or ``Options``.

    Raises:
        UsageError: naming the key, what came, what was expected, and the nearest known key.
    """
    checked, hints = {}, typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise UsageError(f"{where}: unknown key {shown(key)}; {nearest(key, hints)}")
        came = f"{where}: {key} = {shown(value)}"
        try:
            checked[key] = _convert(value, hints[key])
        except ValueError as error:
            raise UsageError(f"{came}; expected {error}") from None
        wide = key == "hidden" and any(not 1 <= width <= 65536 for width in checked[key])
        if wide or (key == "hidden" and len(checked[key]) > 64):
            raise UsageError(f"{came}; expected at most 64 widths from 1 to 65536")
        least, most = _RANGES.get(key, (None, None))
        number = checked[key]
        if not isinstance(number, (int, float)):
            continue
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise UsageError(f"{came}; expected {bounds}")
    return checked


def as_table(config: Config) -> dict[str, Any]:
    """A config as a TOML table: what is unset is left out."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
        if value is not None
    }
