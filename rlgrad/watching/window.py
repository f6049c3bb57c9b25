"""A window that shows frames as they come: space pauses, q or Escape closes it."""

from __future__ import annotations

import os
import sys

from rlgrad.errors import UsageError
from rlgrad.watching.playing import PIP, Picture
from rlgrad.watching.sink import Sink


def quiet_pygame() -> None:
    """Keep pygame, which environments draw with, from greeting and from opening sound."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def need_display() -> None:
    """Refuse a window where there is nothing to show it on.

    Raises:
        UsageError: saying how to record instead.
    """
    shown = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in shown):
        raise UsageError(
            "there is no display for a window (DISPLAY is not set): use --record out.mp4, "
            "or out.gif, or a folder for PNGs"
        )
    try:
        import pygame  # noqa: F401
    except ImportError:
        raise UsageError(f"a window needs pygame, which is not installed: {PIP}") from None


class Window(Sink):
    """A window on the screen.

    Args:
        title: in its frame.
        fps: frames per second.
    """

    def __init__(self, title: str, fps: int) -> None:
        super().__init__(fps)
        self.title, self.size = title, (0, 0)

    def __enter__(self) -> Window:
        import pygame

        pygame.init()
        self.clock = pygame.time.Clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        import pygame

        pygame.quit()

    def add(self, frame: Picture) -> bool:
        """Show it for its time; False once the window has been closed."""
        import pygame

        height, width = frame.shape[:2]
        if self.size != (width, height):
            self._open(width, height)
        surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self.screen.blit(surface, (0, 0))
        pygame.display.flip()
        self.clock.tick(self.fps)
        paused = False
        while True:
            for event in pygame.event.get():
                key = event.key if event.type == pygame.KEYDOWN else None
                if event.type == pygame.QUIT or key in (pygame.K_q, pygame.K_ESCAPE):
                    return False
                paused ^= key == pygame.K_SPACE
            if not paused:
                return True
            self.clock.tick(30)

    def _open(self, width: int, height: int) -> None:
        import pygame

        try:
            self.screen = pygame.display.set_mode((width, height))
        except pygame.error as error:
            raise UsageError(f"no window can be opened: {error}; use --record out.mp4") from None
        pygame.display.set_caption(self.title)
        self.size = (width, height)
