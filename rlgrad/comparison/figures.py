"""Pictures of a comparison; an agent looks alike in all of them, peers are dashed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

from rlgrad import plots
from rlgrad.comparison.summaries import times
from rlgrad.drawing import Palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rlgrad.comparison.judgement import Judgement
    from rlgrad.comparison.summaries import Summary

STEPS, SECONDS = "env steps per seed", "CPU-seconds per seed (x20: 20 seeds share a process)"


class Picture(NamedTuple):
    """A figure, its name as a file, and what is to be seen."""

    name: str
    figure: Figure
    caption: str


def _palette(found: Judgement) -> Palette:
    return Palette(found.agents, found.peers)


def learning_curves(found: Judgement, env: str | None = None, against: str = "steps") -> Figure:
    """Interquartile mean over seeds of the last 100 training episodes' return.

    Args:
        found: the comparison.
        env: which environment; None: its first.
        against: "steps" or "seconds".
    """
    env = env or found.envs[0]
    solved_at = next(e.solved_at for e in found.entries if e.env == env)
    lines, palette = found.curves(env, "rollout/ep_rew_mean", against), _palette(found)
    if against == "seconds":  # what shares a process and what has its own must not be mixed up
        names = {s.agent: _with_company(s) for s in found.summaries if s.env == env}
        lines = {names[agent]: line for agent, line in lines.items()}
        palette = Palette(
            [names.get(agent, agent) for agent in found.agents], {names[a] for a in found.peers}
        )
    return plots.curves(
        lines,
        STEPS if against == "steps" else SECONDS,
        "return of the last 100 episodes",
        {} if solved_at is None else {"solved": solved_at},
        log_x=against == "seconds",
        palette=palette,
    )


def _with_company(summary: Summary) -> str:
    return f"{summary.agent} x{summary.together}"


def _left_out(found: Judgement, env: str, drawn: Collection[str]) -> str:
    """Which agents a picture does not show, and why."""
    missing = [e.agent for e in found.entries if e.env == env and e.agent not in drawn]
    return f" Not drawn, with too few logged points: {', '.join(missing)}." if missing else ""


def scores(found: Judgement, env: str) -> Figure:
    """Final scores by sampled actions: interquartile mean, median and mean over seeds."""
    own = [s for s in found.summaries if s.env == env]
    return plots.intervals(
        {
            "interquartile mean": {s.agent: s.iqm for s in own},
            "median": {s.agent: s.median for s in own},
            "mean": {s.agent: s.mean for s in own},
        },
        _palette(found),
    )


def aggregate(found: Judgement) -> Figure:
    """Statistics of normalised scores over all environments."""
    titles = {"iqm": "interquartile mean", "median": "median", "mean": "mean"}
    return plots.intervals(
        {
            title: {agent: row[key] for agent, row in found.aggregate.items()}
            for key, title in titles.items()
        },
        _palette(found),
    )


def improvement(found: Judgement) -> Figure:
    """Who scores above whom."""
    agents, p = found.agents, found.improvement
    return plots.improvement(agents, [[p[a].get(b) for b in agents] for a in agents])


def solving(found: Judgement, env: str) -> Figure:
    """Share of seeds solved against env steps."""
    own = {e.agent: times(e.seeds, "steps") for e in found.entries if e.env == env}
    return plots.survival(own, STEPS, _palette(found))


def pictures(found: Judgement, env: str) -> Iterator[Picture]:
    """All pictures of one environment."""
    name = f"{env} " if len(found.envs) > 1 else ""
    file = name.replace("/", "-").replace(" ", "-").replace(":", "-")
    yield Picture(
        f"{file}scores",
        scores(found, env),
        "Mean return on fresh episodes by sampled actions, over seeds, with 95 % intervals.",
    )
    if lines := found.curves(env, "rollout/ep_rew_mean"):
        yield Picture(
            f"{file}curves-steps",
            learning_curves(found, env),
            "Interquartile mean over seeds and its pointwise 95 % band, while training."
            + _left_out(found, env, lines),
        )
    if lines := found.curves(env, "rollout/ep_rew_mean", "seconds"):
        yield Picture(
            f"{file}curves-seconds",
            learning_curves(found, env, "seconds"),
            "The same against CPU-seconds of training: of the process, divided by the seeds that "
            "shared it (x20: 20 of them; x1: a process of its own)." + _left_out(found, env, lines),
        )
    if any(e.solved_at is not None for e in found.entries if e.env == env):
        yield Picture(
            f"{file}solved",
            solving(found, env),
            "Share of seeds whose last 100 training episodes reached the solved-at score; a bar "
            "marks where a seed stopped unsolved.",
        )
    if lines := found.curves(env, "gradient/variance"):
        label = "variance of an update's gradient"
        yield Picture(
            f"{file}variance",
            plots.curves(lines, STEPS, label, log=True, palette=_palette(found)),
            "Total variance of the parameter gradient, measured in each update from the spread "
            "over its environments. At the same step agents are at different policies: rlgrad "
            "variance compares estimators at the same one.",
        )
