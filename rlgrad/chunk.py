"""Some environments stepped one after another, with everything that each of them may do wrong."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlgrad.errors import UsageError, raised, shown
from rlgrad.hanging import WATCH, HangingError
from rlgrad.rows import IDLE, UNMADE, UNSEEDED, Lane, LaneError, Rows, moment, standing
from rlgrad.seeded import SeededEpisodes, WrongError, checked_array

_FLAGS = frozenset({bool, np.bool_})


def _told(error: BaseException) -> str:
    """What was raised, and where, in a line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{raised(error, 500)} ({place.filename}, line {place.lineno})"


class Chunk:
    """Environments stepped in a loop, in mode SAME_STEP, from and to rows of arrays.

    Args:
        name: of the environment, for messages.
        lanes: make the environments; their observations are of one Box space.
        rows: of these environments.
        first: number of the first among all of the vector environment's.
        watched: whether one that hangs is interrupted here; else who owns the process sees to it.

    Raises:
        LaneError: here or later, where an environment raises, or gives what is no observation of
            its space, no number or no flag.
    """

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane],
        rows: Rows,
        first: int = 0,
        watched: bool = False,
    ) -> None:
        self.name, self.rows, self.first, self.watched = name, rows, first, watched
        self._shape, self._dtype = rows.observation.shape[1:], rows.observation.dtype
        self._count = 0
        self.envs: list[gymnasium.Env[Any, Any]] = []
        rows.time[:], rows.seed[:] = UNMADE, UNSEEDED
        if watched:
            WATCH.start()
        with self._guarded():
            for i, lane in enumerate(lanes):
                rows.at[0] = i
                self.envs.append(lane())

    def standing(self) -> tuple[int, ...]:
        """Differs whenever an environment has answered."""
        return self._count, *standing(self.rows)

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Start new episodes in all lanes, each from its seed; None: from where it stands."""
        with self._guarded():
            for i, seed in enumerate(seeds):
                self.rows.at[0] = i
                self._begin(i, seed)

    def _begin(self, i: int, seed: int | None = None) -> None:
        """A lane's next episode."""
        self.rows.time[i], self.rows.seed[i] = 0, UNSEEDED if seed is None else seed
        x = self.envs[i].reset(seed=seed)[0]
        self.rows.observation[i] = checked_array(x, self._shape, self._dtype)
        self._note(i)

    def _note(self, i: int) -> None:
        """Write down where a lane is that keeps its episodes."""
        env = self.envs[i] if i < len(self.envs) else None
        if isinstance(env, SeededEpisodes):
            self.rows.time[i] = env.time
            self.rows.seed[i] = UNSEEDED if env.given is None else env.given

    def step(self, lanes: NDArray[np.int64] | None = None) -> None:
        """Act in all lanes, or in some; one whose episode ends begins the next."""
        rows, shape, dtype = self.rows, self._shape, self._dtype
        at, observation, envs = rows.at, rows.observation, self.envs
        which: Any = slice(None) if lanes is None else lanes
        numbers = range(len(envs)) if lanes is None else lanes.tolist()
        rewards: list[Any] = []
        rows.time[which] += 1
        rows.terminated[which] = rows.truncated[which] = False
        actions = rows.action[which].copy()  # an environment may keep its own
        with self._guarded():
            for i, action in zip(numbers, actions, strict=True):
                at[0] = i
                x, reward, over, cut, _ = envs[i].step(action)
                rewards.append(reward)
                if type(x) is not np.ndarray or x.shape != shape or x.dtype is not dtype:
                    x = checked_array(x, shape, dtype)
                observation[i] = x
                if over is not False or cut is not False:
                    self._end(i, over, cut)
            rows.reward[which] = rewards

    def begin(self, lanes: NDArray[np.int64]) -> None:
        """Act in some lanes, now: there is nobody else to do it meanwhile."""
        self.step(lanes)

    def finish(self) -> None:
        """Nothing is under way after ``begin``."""

    def _end(self, i: int, over: Any, cut: Any) -> None:
        """Take in flags that are not both False, and begin the lane's next episode if one is."""
        rows = self.rows
        rows.terminated[i], rows.truncated[i] = _flag(over, "terminated"), _flag(cut, "truncated")
        if rows.terminated[i] or rows.truncated[i]:
            rows.final[i] = rows.observation[i]
            self._begin(i)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What goes wrong while environments are played, told as a ``LaneError``."""
        self._count += 1
        WATCH.standing = self.standing if self.watched else None
        try:
            yield
        except UsageError:
            raise
        except (Exception, HangingError) as error:
            raise self._failure(error) from error
        finally:
            WATCH.standing = None
        self.rows.at[0] = IDLE

    def _failure(self, error: BaseException) -> LaneError:
        """Which environment failed, how and when."""
        i = int(self.rows.at[0])
        self._note(i)
        wrong = isinstance(error, WrongError)
        what = str(error) if wrong or isinstance(error, HangingError) else f"raised {_told(error)}"
        text = "" if wrong else "".join(traceback.format_exception(error))
        lost = range(self.first + i, self.first + i + 1)
        return LaneError(self.name, what, lost, moment(self.rows, i), text)

    def call(self, name: str, *args: Any) -> list[Any]:
        """Call a method of every environment."""
        answers = []
        with self._guarded():
            for i, env in enumerate(self.envs):
                self.rows.at[0] = i
                if isinstance(env, SeededEpisodes):
                    env.pulse = self.rows.time[i : i + 1]
                answers.append(env.get_wrapper_attr(name)(*args))
                self._note(i)
        return answers

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Set an attribute of every environment, to one value each."""
        for env, value in zip(self.envs, values, strict=True):
            env.set_wrapper_attr(name, value)

    def close(self) -> None:
        """Release the environments."""
        while self.envs:
            self.envs.pop().close()


def _flag(value: Any, name: str) -> bool:
    """A flag, which may have come as a number 0 or 1, or an array of one."""
    if type(value) in _FLAGS:
        return bool(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise WrongError(f"gave {name} = {shown(value)}; expected a bool")
    return bool(array.item())
