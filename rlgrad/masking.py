"""Invalid-action masks of an environment, as columns behind its observation.

So a mask goes wherever the observation goes that it belongs to: through workers, resets and
rollouts, into checkpoints and back.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlgrad.actions import Actions
from rlgrad.seeded import WrongError, checked_array

KEY = "action_mask"
"""In an info of ``reset`` and ``step``."""


class MaskedBox(Box):
    """Flattened observations followed by a mask of 0 and 1 for D x A categories.

    Args:
        plain: of the observations themselves.
        outputs: D x A.
    """

    def __init__(self, plain: Box, outputs: int) -> None:
        self.plain = plain
        low = np.append(plain.low.reshape(-1), np.zeros(outputs, dtype=plain.low.dtype))
        high = np.append(plain.high.reshape(-1), np.ones(outputs, dtype=plain.high.dtype))
        super().__init__(low, high, dtype=plain.dtype)


class Masked(gymnasium.Wrapper[NDArray[Any], Any, Any, Any]):
    """An environment of Box observations whose infos hold masks, as one of a ``MaskedBox``.

    Args:
        env: with ``info["action_mask"]`` from reset and step, in a form that ``Actions.allowed``
            takes. Where an episode ends there may be none, and it may allow nothing.

    Raises:
        WrongError: later, where a mask is missing, of another form, or allows no action.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, Box)
        self._actions, self._plain = Actions(env.action_space), env.observation_space
        self.observation_space = MaskedBox(self._plain, self._actions.outputs)
        self._everything = np.ones(self._actions.outputs, dtype=np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        x, info = self.env.reset(seed=seed, options=options)
        return self._joined(x, self._mask(info)), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act; what is allowed after an episode's end does not matter."""
        x, reward, terminated, truncated, info = self.env.step(action)
        mask = self._everything if terminated or truncated else self._mask(info)
        return self._joined(x, mask), reward, terminated, truncated, info

    def _mask(self, info: dict[str, Any]) -> NDArray[np.bool_]:
        if info.get(KEY) is None:
            raise WrongError(
                f"gave an info without {KEY!r}; expected one in every info of reset and step "
                "before an episode's end, or --action-masks off"
            )
        try:
            return self._actions.allowed(info[KEY]).reshape(-1)
        except ValueError as error:
            raise WrongError(f"gave {error} (--action-masks off ignores masks)") from None

    def _joined(self, x: Any, mask: NDArray[np.bool_]) -> NDArray[Any]:
        x = checked_array(x, self._plain.shape, self._plain.dtype)
        return np.concatenate([x.reshape(-1), mask], dtype=self._plain.dtype, casting="unsafe")


def random_actions(space: Any, actions: Actions, x: NDArray[Any], rng: np.random.Generator) -> Any:
    """Random actions ``[L, *shape]`` at observations ``[L, ...]`` of a space, as it allows them."""
    sizes, L = actions.sizes, len(x)
    chances = rng.random((L, len(sizes), max(sizes)))
    if isinstance(space, MaskedBox):
        allowed = x[:, -actions.outputs :].reshape(chances.shape) > 0
    else:
        allowed = np.arange(max(sizes)) < np.array(sizes)[:, None]
    return actions.outside(np.where(allowed, chances, -1.0).argmax(-1))


def offers_masks(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment gives a mask with its first observation; it is reset for that."""
    return env.reset(seed=0)[1].get(KEY) is not None
