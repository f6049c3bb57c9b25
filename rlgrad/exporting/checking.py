"""Whether an exported policy is the policy: both at the same observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatten
from numpy.typing import NDArray

from rlgrad.actions import Actions
from rlgrad.errors import UsageError
from rlgrad.exporting.graph import INPUT, MASK, takes
from rlgrad.masking import KEY
from rlgrad.streams import Purpose, derive

MOST, STATES = 1e-4, 256  # largest difference of a probability; states that are visited


def visited(env: gymnasium.Env[Any, Any], count: int = STATES) -> list[Any]:
    """Observations that random actions lead to, episode after episode; they keep to masks."""
    found: list[Any] = []
    env.action_space.seed(0)
    over, episode = True, 0
    while len(found) < count:
        if over:
            observation, info = env.reset(seed=derive(0, Purpose.MEASURE, episode))
            over, episode = False, episode + 1
        else:
            action = _random_action(env, info)
            observation, _, terminated, truncated, info = env.step(action)
            over = bool(terminated or truncated)
        found.append(observation)
    return found


def _random_action(env: gymnasium.Env[Any, Any], info: Mapping[str, Any]) -> Any:
    if info.get(KEY) is None:
        return env.action_space.sample()
    actions = Actions(env.action_space)
    allowed = actions.allowed(info[KEY])
    chances = np.where(allowed, env.action_space.np_random.random(allowed.shape), -1.0)
    return actions.outside(chances.argmax(-1)[None])[0]


def _masks(count: int, sizes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Random masks ``[n, D, A]``, each with an allowed category for every factor."""
    chances = np.random.default_rng(0).random((count, len(sizes), max(sizes)))
    chances[:, np.arange(max(sizes)) >= np.array(sizes)[:, None]] = -1.0
    best: NDArray[np.bool_] = chances == chances.max(-1, keepdims=True)
    return best | (chances > 0.5)


def as_input(env: gymnasium.Env[Any, Any], observations: list[Any]) -> NDArray[Any]:
    """Observations as the graph takes them, ``[n, ...]``."""
    from onnx.helper import tensor_dtype_to_np_dtype

    kind, shape = takes(env.observation_space)
    if isinstance(env.observation_space, (gymnasium.spaces.Box, gymnasium.spaces.Discrete)):
        rows = [np.asarray(each) for each in observations]
    else:
        rows = [np.asarray(flatten(env.observation_space, each)) for each in observations]
    return np.stack(rows).reshape(len(rows), *shape).astype(tensor_dtype_to_np_dtype(kind))


def largest_difference(
    model: bytes, actor: Callable[[Any], Any], env: gymnasium.Env[Any, Any]
) -> float:
    """Largest difference of a probability between the file in onnxruntime and the policy.

    Args:
        model: the file's content.
        actor: flattened observations ``[1, n, F]`` -> logits ``[1, n, D, A]``.
        env: whose states are visited, all as one batch and the first one alone.

    Raises:
        UsageError: where it is more than 1e-4, or a logit is infinite in one and not in the other.
    """
    import onnxruntime

    observations = visited(env)
    flat = [np.asarray(flatten(env.observation_space, each)) for each in observations]
    x = np.stack(flat).astype(np.float32).reshape(1, len(flat), -1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    fed = {INPUT: as_input(env, observations)}
    if len(session.get_inputs()) > 1:
        masks = _masks(len(flat), Actions(env.action_space).sizes)
        x = np.concatenate([x, masks.reshape(*x.shape[:2], -1)], -1, dtype=np.float32)
        fed[MASK] = masks.reshape(-1, *session.get_inputs()[1].shape[1:])
    logits, worst = actor(x)[0], 0.0
    for n in (1, len(flat)):
        theirs, p = session.run(None, {name: each[:n] for name, each in fed.items()})
        mine = logits[:n].reshape(theirs.shape)
        wrong = not np.array_equal(np.isinf(theirs), np.isinf(mine))
        worst = max(worst, np.inf if wrong else float(np.abs(p - _softmax(mine)).max()))
    if not worst <= MOST:
        raise UsageError(
            f"the exported policy differs from the run's by {worst:.2g} in a probability, and at "
            f"most {MOST:g} is allowed; nothing was written: please report it"
        )
    return worst


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    p: NDArray[Any] = e / e.sum(-1, keepdims=True)
    return p
