"""``rlgrad watch``: look at a trained policy, or record it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgrad.chosen import Chosen
from rlgrad.errors import UsageError
from rlgrad.terminal import out

if TYPE_CHECKING:
    import gymnasium

    from rlgrad.agent import Policy
    from rlgrad.store import Run
    from rlgrad.watching.playing import Moment
    from rlgrad.watching.sink import Sink


@dataclass(frozen=True)
class Watch(Chosen):
    """Watch a trained run play, in a window or a video, with what it thinks."""

    episodes: int = 3
    """Fresh episodes."""
    env_seed: int = 0
    """Seeds of the episodes; another number, other episodes. Those of `rlgrad evaluate`."""
    deterministic: bool = False
    """The most probable action instead of a sampled one."""
    record: str | None = None
    """Write frames instead of opening a window: out.mp4, out.gif, or a new folder for PNGs."""
    fps: int | None = None
    """Frames per second. Default: the environment's own."""
    overlay: bool = True
    """The panel with probabilities, value and return beside the picture."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Play, show or record, and print how each episode ended."""
        self._check()
        import torch

        from rlgrad.watching.recording import kind_of
        from rlgrad.watching.window import need_display, quiet_pygame

        torch.set_num_threads(1)  # small networks: a second thread only waits
        quiet_pygame()
        if self.record is None:
            need_display()
        else:
            kind_of(self.record)
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # drawing into arrays needs no screen
        from rlgrad.watching.playing import drawn_environment

        run = self.run()
        policy = self.policy(run)
        env = drawn_environment(run.env_id, run.env_kwargs, run.config.max_episode_steps)
        try:
            self._watch(run, policy, env)
        finally:
            env.close()
        return 0

    def _check(self) -> None:
        if not 1 <= self.episodes <= 10_000:
            raise UsageError(f"got --episodes {self.episodes}; expected 1 to 10,000")
        if not 0 <= self.env_seed < 1 << 63:
            raise UsageError(f"got --env-seed {self.env_seed}; expected 0 to 2^63-1")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise UsageError(f"got --fps {self.fps}; expected 1 to 240")
        self.which()

    def _watch(self, run: Run, policy: Policy, env: gymnasium.Env[Any, Any]) -> None:
        from rlgrad.action_names import action_names
        from rlgrad.agent import Agent
        from rlgrad.watching.panel import Panel
        from rlgrad.watching.playing import play
        from rlgrad.watching.values import value_of

        agent = Agent(policy, env.observation_space, env.action_space, self.env_seed)
        about = f"{self.told(run)}, {'argmax' if self.deterministic else 'sampled'}"
        panel = Panel(run.env_id, about, action_names(env), self.episodes)
        fps = self.fps or max(1, round(float(env.metadata.get("render_fps") or 30)))
        value = value_of(policy)
        moments = play(env, agent, value, self.episodes, self.env_seed, self.deterministic)
        draw = panel.beside if self.overlay else panel.bare
        with self._sink(f"{run.env_id}: {about}", fps) as sink:
            for moment in moments:
                frames = [draw(moment)] * (fps if moment.ended and sink.holds else 1)
                if not all(map(sink.show, frames)):
                    return
                if moment.ended:
                    out(_told(moment))
        if self.record is not None:
            out(f"wrote {self.record}: {sink.count:,} frames, {fps} per second")

    def _sink(self, title: str, fps: int) -> Sink:
        from rlgrad.watching.recording import kind_of
        from rlgrad.watching.window import Window

        if self.record is None:
            return Window(title, fps)
        return kind_of(self.record)(Path(self.record), fps)


def _told(moment: Moment) -> str:
    return (
        f"episode {moment.episode + 1}: return {moment.total:g}, "
        f"{moment.step:,} steps, {moment.ended}"
    )
