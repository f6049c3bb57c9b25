"""Rules about trajectories: autoreset, time limit, lanes and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode

from rlgrad.checking.findings import Collector
from rlgrad.checking.forms import Forms, Leaves, leaves
from rlgrad.checking.playing import Ending, Play, Row, difference, endings, equal, lane_of

ENOUGH = 3  # endings before a rule about all of them says anything


def mode_rules(game: Play, mode: AutoresetMode, forms: Forms, found: Collector) -> None:
    """What the declared mode promises of the rows where episodes end, and of the rows after."""
    for t, row in enumerate(game.rows):
        if mode is AutoresetMode.SAME_STEP:
            for lane in np.flatnonzero(row.over).tolist():
                if lane not in row.final:
                    text = "SAME_STEP: an episode ended without its last observation in final_obs"
                    found.add("autoreset", text, f"at step {t}, lane {lane}")
                else:
                    forms.final(row.final[lane], f"at step {t}, lane {lane}")
        if mode is AutoresetMode.NEXT_STEP and t and game.rows[t - 1].over.any():
            before = game.rows[t - 1].over
            wrong = before & ((row.reward != 0) | row.over)
            for lane in np.flatnonzero(wrong).tolist():
                text = "NEXT_STEP: the row after an end is a mere reset, but has a reward or a flag"
                found.add("autoreset", text, f"at step {t}, lane {lane}")
                return  # every later row would be misread
        if row.fresh is not None:
            kept = np.flatnonzero(~row.over).tolist()
            if not equal([x[kept] for x in row.fresh], [x[kept] for x in row.observation]):
                text = "DISABLED: a reset by mask changed the observations of other lanes"
                found.add("autoreset", text, f"at step {t}")


def _inside(parts: Leaves, low: Leaves, high: Leaves) -> float:
    """Share of an observation's numbers within the range of reset observations, and half more."""
    inside = []
    for x, a, b in zip(parts, low, high, strict=True):
        number, slack = x.astype(float), (b - a) / 2
        inside.append(((number >= a - slack) & (number <= b + slack)).ravel())
    return float(np.concatenate(inside).mean())


def ending_rules(
    game: Play, ends: Sequence[Ending], resets: list[Leaves], found: Collector
) -> None:
    """True last observations are there, and new episodes start like those after a reset.

    Args:
        game: the play.
        ends: its episodes' ends.
        resets: observations of resets of all lanes.
        found: where faults go.
    """
    whole = [each for each in ends if each.final is not None and each.start is not None]
    if len(whole) < ENOUGH or not resets or not resets[0]:
        return
    moves = [
        not equal([x[~b.over] for x in a.observation], [x[~b.over] for x in b.observation])
        for a, b in zip(game.rows, game.rows[1:], strict=False)
        if not b.over.all()
    ]
    if sum(moves) > len(moves) / 2 and all(equal(e.final or [], e.start or []) for e in whole):
        text = (
            "every last observation equals the next episode's first: the true last one is lost, "
            "or no episode starts anew"
        )
        found.add("autoreset", text)
        return
    stacked = [np.concatenate([x[i] for x in resets]).astype(float) for i in range(len(resets[0]))]
    low, high = ([np.asarray(f(x, axis=0)) for x in stacked] for f in (np.min, np.max))
    starts = float(np.mean([_inside(e.start or [], low, high) for e in whole]))
    finals = float(np.mean([_inside(e.final or [], low, high) for e in whole]))
    if starts < finals - 0.25:
        text = (
            "observations of new episodes are less like those of reset() than last observations "
            f"are ({starts:.0%} against {finals:.0%} of their numbers in range): swapped, or no "
            "reset"
        )
        found.add("autoreset", text)


def limit_rules(game: Play, mode: AutoresetMode, limit: int, found: Collector) -> None:
    """Episodes are truncated at the limit, not before and not after, by the right flag."""
    lanes = len(game.rows[0].terminated) if game.rows else 0
    lasted = [len(game.rows)] * lanes
    reached = False
    for end in endings(game, mode):
        at = f"at step {end.time}, lane {end.lane}"
        lasted[end.lane] = len(game.rows) - 1 - end.time - (mode is AutoresetMode.NEXT_STEP)
        reached |= end.length >= limit
        if end.length > limit:
            text = f"an episode went on beyond the limit of {limit} steps"
            found.add("limit", text, f"{at}: {end.length}")
        elif end.length == limit and not end.truncated:
            text = f"an episode that ended at the limit of {limit} steps is not truncated"
            found.add("limit", text, at)
        elif end.length < limit and end.truncated:
            text = (
                f"an episode was truncated before the limit of {limit} steps (pass "
                "max_episode_steps=0 where there are other reasons to truncate)"
            )
            found.add("limit", text, f"{at}: {end.length}")
    over = [lane for lane, steps in enumerate(lasted) if steps > limit]
    if over:
        found.add(
            "limit", f"an episode went on beyond the limit of {limit} steps", f"lane {over[0]}"
        )
    elif not reached:
        found.notes.append(
            f"no episode reached the limit of {limit} steps; make the environment with a smaller "
            "one to have truncation checked"
        )


def lane_play(game: Play, lane: int, mode: AutoresetMode) -> Play:
    """One lane of a play, as a play of one lane."""

    def cut(parts: Leaves) -> Leaves:
        return [x[lane : lane + 1] for x in parts]

    rows = []
    for row in game.rows:
        over = bool(row.over[lane])
        fresh = cut(row.fresh) if over and row.fresh is not None else None
        keep = mode is AutoresetMode.SAME_STEP and lane in row.final
        final = {0: row.final[lane]} if keep else {}
        reward, terminated, truncated = cut([row.reward, row.terminated, row.truncated])
        rows.append(Row(cut(row.observation), reward, terminated, truncated, final, fresh))
    return Play(cut(game.first), rows)


def _one(space: Space[Any], observation: Any) -> Leaves:
    return [np.asarray(x)[None] for x in leaves(space, observation)]


def alone(
    env: gymnasium.Env[Any, Any], seed: int, actions: Sequence[Any], mode: AutoresetMode
) -> Play:
    """What a lane must show in a mode, by a plain loop over one environment."""
    space = env.observation_space
    observation, _ = env.reset(seed=seed)
    first, rows, over = _one(space, observation), [], False
    for action in actions:
        if mode is AutoresetMode.NEXT_STEP and over:
            observation, _ = env.reset()
            reward, ends, over = 0.0, (False, False), False
        else:
            observation, reward, *ends, _ = env.step(action)  # type: ignore[assignment]
            over = any(ends)
        seen, fresh = _one(space, observation), None
        final: dict[int, Leaves] = {}
        if over and mode is AutoresetMode.SAME_STEP:
            final = {0: lane_of(seen, 0)}
            seen = _one(space, env.reset()[0])
        elif over and mode is AutoresetMode.DISABLED:
            fresh = _one(space, env.reset()[0])
        terminated, truncated = (np.array([each], dtype=bool) for each in ends)
        rows.append(Row(seen, np.array([float(reward)]), terminated, truncated, final, fresh))
    return Play(first, rows)


def reference_rule(
    game: Play,
    make: Callable[[], gymnasium.Env[Any, Any]],
    seed: int,
    actions: Sequence[Sequence[Any]],
    mode: AutoresetMode,
    found: Collector,
) -> None:
    """Every lane is the single environment's own table, row by row.

    Args:
        game: the play of all lanes.
        make: makes one environment.
        seed: of the play; lane i has seed + i, as Gymnasium's vectorisers seed.
        actions: by lane, one per step.
        mode: of the autoreset.
        found: where faults go.
    """
    for lane, chosen in enumerate(actions):
        env = make()
        try:
            expected = alone(env, seed + lane, chosen, mode)
        finally:
            env.close()
        got = lane_play(game, lane, mode)
        rounded = [
            row._replace(reward=row.reward.astype(like.reward.dtype))
            for row, like in zip(expected.rows, got.rows, strict=True)
        ]
        if what := difference(expected._replace(rows=rounded), got):
            text = "a lane is not the single environment played alone with the same seed"
            found.add("reference", text, f"lane {lane}: {what}")
