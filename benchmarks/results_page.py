"""What `results_table.py` writes of its record: the table in Markdown, and docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Table = Mapping[str, Any]
HEAD = (
    "| agent | return, IQM (95 %) | argmax, IQM | seeds at the goal | CPU-seconds per seed "
    "| A2C's, times these |\n|---|---|---|---|---|---|"
)
INTRO = """# Results

Made by `python benchmarks/results_table.py`, with the cards that are shipped. Every agent trains
seeds {seeds} for the same env steps, and each seed is then judged by the mean return of {episodes}
fresh episodes on Gymnasium's own environment, acting by sampling; the column "argmax" is of as many
that take the most probable action. IQM: interquartile mean over seeds, with its bootstrap interval
of 95 %. "At the goal": seeds whose mean by sampling reaches the environment's `solved_at`.
CPU-seconds are of training; rlgrad's seeds share a process, a peer's have one each.

`sb3-a2c` and `sb3-ppo` are Stable-Baselines3's, with the settings of rl-baselines3-zoo where it has
some (CartPole, Acrobot, MountainCar, LunarLander) and its defaults elsewhere. The zoo's step sizes
fall over the env steps of this table, which may be fewer than the zoo's own. What stands behind the
cards of rlgrad is listed at the end.
"""
NO_TRIALS = (
    "Cards without trials of their own have defaults, the environment's settings or another "
    "agent's:"
)


def bounds(interval: Table) -> str:
    """``value (low to high)``."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def _a2c(table: Table) -> Table | None:
    return next((row for row in table["agents"] if row["agent"] == "sb3-a2c"), None)


def rows(table: Table) -> list[str]:
    """Lines of an environment's table, best first."""
    a2c, lines = _a2c(table), []
    for row in sorted(table["agents"], key=lambda row: -row["iqm"]["value"]):
        goal = f"{row['reached']} of {row['seeds']}" if row["reached"] is not None else "-"
        times = "-" if a2c is None else f"{a2c['cpu_seconds'] / row['cpu_seconds']:.3g}"
        lines.append(
            f"| `{row['agent']}` | {bounds(row['iqm'])} | {row['argmax']['value']:.4g} | {goal} "
            f"| {row['cpu_seconds']:.3g} | {times} |"
        )
    return lines


def verdict(table: Table) -> str:
    """Whether the best agent of rlgrad keeps up with A2C at equal steps."""
    own = [row for row in table["agents"] if not row["peer"]]
    a2c = _a2c(table)
    if a2c is None or not own:
        return "Stable-Baselines3's A2C has not been trained here yet, so nothing is compared."
    best = max(own, key=lambda row: row["iqm"]["value"])
    where = "not below" if best["iqm"]["value"] >= a2c["iqm"]["low"] else "below"
    times = a2c["cpu_seconds"] / best["cpu_seconds"]
    return (
        f"The best of rlgrad's by IQM, `{best['agent']}`, is {where} A2C by more than A2C's "
        f"interval; A2C takes {times:.3g} times its CPU-seconds."
    )


def section(env: str, table: Table, picture: str | None) -> str:
    """An environment's part of the page."""
    lines = [f"## {env}\n", f"{table['steps']:,} env steps; random actions return "]
    lines[-1] += f"{table['random']:.4g}. {verdict(table)}\n"
    lines += [HEAD, *rows(table)]
    if picture:
        lines += ["", f"![Learning curves on {env}]({picture})"]
    return "\n".join(lines) + "\n"


def missing(found: Mapping[str, Table], envs: Sequence[str], agents: Sequence[str]) -> str:
    """What the record does not hold yet."""
    lines = []
    for env in envs:
        has = {row["agent"] for row in found[env]["agents"]} if env in found else set()
        if lacks := [agent for agent in agents if agent not in has]:
            every = "no agent yet" if len(lacks) == len(agents) else None
            lines.append(f"* {env}: {every or 'not ' + ', '.join(f'`{a}`' for a in lacks)}")
    if not lines:
        return ""
    return "## Not measured yet\n\n" + "\n".join(lines) + "\n"


def effort(efforts: Mapping[str, Mapping[str, Table]]) -> str:
    """Trials and CPU-hours behind each card, as the cards tell them."""
    lines = ["## Effort behind the cards\n", "| environment | agent | trials | seeds | CPU-hours |"]
    lines.append("|---|---|---|---|---|")
    without = []
    for env, cards in efforts.items():
        for agent, told in cards.items():
            if told:
                cells = told["tuned_trials"], told["seeds"], told.get("cpu_hours", "not kept")
                lines.append(f"| {env} | `{agent}` | {' | '.join(map(str, cells))} |")
        if lacks := [f"`{agent}`" for agent, told in cards.items() if not told]:
            every = "no agent has any" if len(lacks) == len(cards) else ", ".join(lacks)
            without.append(f"* {env}: {every}")
    if without:
        lines += ["", NO_TRIALS, "", *without]
    return "\n".join(lines) + "\n"


def markdown(found: Mapping[str, Table]) -> str:
    """One short table of all environments that are done."""
    lines = ["| environment " + HEAD.replace("\n|", "\n|---|", 1)]
    for env, table in found.items():
        lines += [f"| {env}, {table['steps']:,} steps {row}" for row in rows(table)]
    return "\n".join(lines) + "\n"


def page(
    found: Mapping[str, Table],
    envs: Sequence[str],
    agents: Sequence[str],
    efforts: Mapping[str, Mapping[str, Table]],
    pictures: Mapping[str, str],
) -> str:
    """docs/results.md.

    Args:
        found: the record.
        envs: of the whole list.
        agents: of the whole list.
        efforts: environment -> agent -> its card's [tuning] table.
        pictures: environment -> path of its learning curves, from docs/.
    """
    if not found:
        return "# Results\n\nNothing is measured yet.\n"
    first = next(iter(found.values()))
    parts = [INTRO.format(seeds=first["seeds"], episodes=first.get("episodes", 100))]
    parts += [section(env, found[env], pictures.get(env)) for env in envs if env in found]
    parts += [missing(found, envs, agents), effort(efforts)]
    return "\n".join(part for part in parts if part)
