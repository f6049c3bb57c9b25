"""What frames go to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rlgrad.watching.playing import Picture


class Sink(ABC):
    """Takes frames of one size while it is entered.

    Args:
        fps: frames per second.
    """

    holds: ClassVar[bool] = True
    """Whether the end of an episode should stay for a second."""

    def __init__(self, fps: int) -> None:
        self.fps, self.count = fps, 0

    @abstractmethod
    def __enter__(self) -> Sink: ...

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None: ...

    def show(self, frame: Picture) -> bool:
        """Take a frame ``[H, W, 3]``; False: no more are wanted."""
        self.count += 1
        return self.add(frame)

    @abstractmethod
    def add(self, frame: Picture) -> bool:
        """Take frame number ``count``, from 1; False: no more are wanted."""
