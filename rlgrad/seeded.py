"""One lane of Gymnasium's environments whose episodes can be played again."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlgrad.errors import shown
from rlgrad.streams import Purpose, derive


class Place(NamedTuple):
    """Where a lane stands in its episode, and what proves that another stands there too."""

    root: int
    """Seed of the lane."""
    episode: int
    """Number of the episode that comes next; the present one is the one before."""
    actions: NDArray[np.int64]
    """``[steps, factors]`` of the present episode, as the environment took them."""
    total: float
    """Undiscounted return of the present episode so far."""
    observation: NDArray[Any] | tuple[()] = ()
    """``[features]``, the last as agents see it; a lane itself does not keep it."""


class WrongError(Exception):
    """An environment gave what is no observation of its space, no number, flag or mask."""


def checked_array(x: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An observation of the right shape, which assigning it to a row would not ask for.

    Raises:
        WrongError: for another shape, or a type that does not convert.
    """
    y = np.asarray(x)
    if y.shape != shape or not np.can_cast(y.dtype, dtype, "same_kind"):
        raise WrongError(
            f"gave an observation of shape {y.shape} and type {y.dtype}; expected "
            f"{shape} and {dtype}"
        )
    return y


class SeededEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Resets every episode with a seed of its own, derived from the lane's seed and its number.

    So an episode is restored by its number and its actions, and no two lanes share a stream.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._root: int | None = None
        self.episode = 0
        self.given: int | None = None
        """Seed that the present episode's reset was given."""
        self.place_to_take: Place | None = None
        """Set before ``take_place``: a vector environment hands values to lanes one each."""
        self.pulse: NDArray[np.int64] | None = None
        """``[1]``, told the number of each step that is played again, for who waits; None: no."""
        self._scalar = not self.action_space.shape
        self._factors = int(np.prod(self.action_space.shape or ()))
        self._actions, self._total = array("q"), 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode, or the first of ``seed``."""
        if seed is not None:
            self._root, self.episode = seed, 0
        if self._root is not None:
            # Gymnasium and old environments take 32-bit seeds at most.
            seed = derive(self._root, Purpose.RESET, self.episode) & 0x7FFFFFFF
            self.episode += 1
        self._actions, self._total, self.given = array("q"), 0.0, seed
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act, and keep the action until the episode's end."""
        if self._scalar:
            self._actions.append(action)
        else:
            self._actions.extend(np.ravel(action).tolist())
        observation, reward, terminated, truncated, info = self.env.step(action)
        try:
            self._total += float(reward)
        except (TypeError, ValueError):
            raise WrongError(f"gave the reward {shown(reward)}; expected a number") from None
        return observation, reward, terminated, truncated, info

    @property
    def time(self) -> int:
        """Steps of the present episode, with one that is under way."""
        return len(self._actions) // self._factors

    def place(self) -> Place:
        """Where the lane stands.

        Raises:
            RuntimeError: before the first reset with a seed.
        """
        if self._root is None:
            raise RuntimeError("place before reset; call reset(seed=...) first")
        actions = np.array(self._actions, dtype=np.int64).reshape(-1, self._factors)
        return Place(self._root, self.episode, actions, self._total)

    def take_place(self) -> tuple[Any, bool]:
        """Play the episode of ``place_to_take`` again, and compare; what differs starts anew.

        Returns:
            The observation, and whether it and the return so far are those of the place, bit for
            bit. Where they are not, the environment has randomness or memory beyond its seed, and
            a new episode has been started.
        """
        place, self.place_to_take = self.place_to_take, None
        assert place is not None
        self._root, self.episode = place.root, place.episode - 1
        observation, _ = self.reset()
        try:
            for number, action in enumerate(place.actions):
                if self.pulse is not None:
                    self.pulse[0] = number
                observation, _, *ended, _ = self.step(self._as_taken(action))
                if any(ended) and number + 1 < len(place.actions):
                    break
            if len(self._actions) == place.actions.size and self._is_at(place, observation):
                return observation, True
        except Exception:  # of an environment that meets actions it cannot take where it now is
            pass
        return self.reset()[0], False

    def _is_at(self, place: Place, observation: Any) -> bool:
        """Whether observation and return so far are the place's, bit for bit."""
        seen = np.asarray(observation).astype(np.float32).reshape(-1)
        pairs = ((seen, place.observation), (self._total, place.total))
        return all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)

    def _as_taken(self, action: NDArray[np.int64]) -> Any:
        """An action as a vector environment gives it."""
        space = self.action_space
        given = action.astype(space.dtype).reshape(space.shape or ())
        return given[()] if self._scalar else given
