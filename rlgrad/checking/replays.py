"""Rules that need a second play: seeds, shared memory, ignored actions, resets by mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from rlgrad.checking.findings import Collector
from rlgrad.checking.forms import Leaves, array, leaves
from rlgrad.checking.playing import Play, difference, endings, equal, lane_of, play
from rlgrad.checking.rules import lane_play
from rlgrad.checking.watch import Spoiler

OTHERS = (1000, 2000, 3000)  # added to the seed, for others
STARTS = 16  # first observations to learn from what they look like, in at least 4 resets


@dataclass(frozen=True)
class Replays:
    """Plays an environment again and compares with the first play."""

    env: VectorEnv[Any, Any, Any]
    mode: AutoresetMode
    seed: int
    actions: Sequence[Any]
    game: Play
    found: Collector

    def _again(self, actions: Sequence[Any] | None = None, seed: int | None = None) -> Play:
        chosen = self.actions if actions is None else actions
        return play(self.env, self.seed if seed is None else seed, list(chosen))

    def resets(self) -> list[Leaves]:
        """Observations of several resets of all lanes."""
        space = self.env.single_observation_space
        seeds = (self.seed + each for each in range(max(4, STARTS // self.env.num_envs)))
        return [[array(x) for x in leaves(space, self.env.reset(seed=s)[0])] for s in seeds]

    def same_seed(self) -> bool:
        """Whether the same seed and actions give the same play: all other replays rest on it."""
        what = difference(self.game, self._again())
        if what:
            self.found.add("seed", "the same seed and actions gave another play", what)
        return not what

    def other_seeds(self) -> None:
        """Other seeds give other plays, and lanes have streams of their own."""
        if all(not difference(self.game, self._again(seed=self.seed + x)) for x in OTHERS):
            lanes = [lane_of(self.game.first, lane) for lane in range(self.env.num_envs)]
            later = [end.start for end in endings(self.game, self.mode) if end.start is not None]
            if any(not equal(lanes[0], other) for other in [*lanes, *later]):
                self.found.add("seed", "other seeds give the very same play")
            else:
                text = "seeds change nothing: the environment is deterministic, or ignores them"
                self.found.notes.append(text)
            return
        same = self._equal_actions()
        if same is None:
            return
        game = self._again(actions=same)
        alone = [lane_play(game, lane, self.mode) for lane in range(self.env.num_envs)]
        for (i, a), (j, b) in combinations(enumerate(alone), 2):
            if not difference(a, b):
                text = "lanes share one stream: given the same actions they do the same"
                self.found.add("seed", text, f"lanes {i} and {j}")
                return

    def _equal_actions(self) -> list[Any] | None:
        """The actions of lane 0 in all lanes; None where they are no arrays."""
        if not all(isinstance(each, np.ndarray) for each in self.actions):
            return None
        return [np.repeat(each[:1], len(each), 0) for each in self.actions]

    def sharing(self) -> None:
        """The caller may write into what it was given: the environment does not look at it."""
        spoiler = Spoiler(self.found)
        spoiled = play(self.env, self.seed, list(self.actions), spoil=spoiler)
        if what := difference(self.game, spoiled):
            text = "writing into what was returned changes what comes later"
            self.found.add("buffer", text, what)

    def ignored_actions(self) -> None:
        """NEXT_STEP: the action of a row that is a mere reset makes no difference."""
        other = self._equal_actions()
        if self.mode is not AutoresetMode.NEXT_STEP or other is None:
            return
        changed = [np.array(each) for each in self.actions]
        for t, row in enumerate(self.game.rows[:-1]):
            lanes = np.flatnonzero(row.over)
            # Another lane's or step's action: random, so it differs somewhere in the play.
            changed[t + 1][lanes] = self.actions[t][np.roll(lanes, 1)]
        if what := difference(self.game, self._again(actions=changed)):
            text = "NEXT_STEP: the action in the row after an end is not ignored"
            self.found.add("autoreset", text, what)

    def partial_reset(self) -> None:
        """DISABLED: a reset by mask in the middle of an episode leaves other lanes alone."""
        calm = (t for t, row in enumerate(self.game.rows[:-1]) if not row.over.any())
        t = next(calm, None)
        lanes = self.env.num_envs
        if self.mode is not AutoresetMode.DISABLED or lanes < 2 or t is None:
            return
        space, mask = self.env.single_observation_space, np.arange(lanes) == 0
        self._again(actions=self.actions[: t + 1])
        raw = self.env.reset(options={"reset_mask": mask})[0]
        seen = [array(x) for x in leaves(space, raw)]
        raw = self.env.step(self.actions[t + 1])[0]
        after = [array(x) for x in leaves(space, raw)]
        for got, expected in ((seen, self.game.rows[t]), (after, self.game.rows[t + 1])):
            if not equal([x[1:] for x in got], [x[1:] for x in expected.observation]):
                text = "DISABLED: a reset by mask of one lane disturbs the others"
                self.found.add("autoreset", text, f"lane 0 reset after step {t}")
                return
        if equal([x[:1] for x in seen], [x[:1] for x in self.game.rows[t].observation]):
            moved = not equal(self.game.first, self.game.rows[t].observation)
            if moved and t:
                text = "DISABLED: a reset by mask does not reset its lane"
                self.found.add("autoreset", text, f"lane 0 after step {t}")
