"""A comparison as one page: the answer first, then the evidence, then how it was made."""

from __future__ import annotations

from collections.abc import Sequence

import tomli_w

from rlgrad import stats
from rlgrad.comparison import figures
from rlgrad.comparison.floor import EPISODES
from rlgrad.comparison.judgement import Judgement
from rlgrad.comparison.summaries import RESAMPLES, Summary
from rlgrad.comparison.tables import to_solve, with_bounds
from rlgrad.display import short
from rlgrad.page import Page


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def page(found: Judgement) -> Page:
    """The whole report."""
    envs = _listed(found.envs)
    agents = _listed(found.agents)
    built = Page(f"{agents} on {envs}", _lead(found))
    for line in found.warnings:
        built.note(line, "warning")
    for line in found.verdicts:
        built.note(line)
    if found.aggregate:
        _aggregate(built, found)
    for env in found.envs:
        _environment(built, found, env)
    if len(found.agents) > 1:
        built.section("Who scores above whom")
        built.figure(
            "improvement",
            figures.improvement(found),
            "Probability that a seed of the row's agent scores above one of the column's, ties "
            "counting half, with its 95 % interval; bold where that leaves out one half.",
        )
    _cards(built, found)
    _method(built, found)
    return built


def _lead(found: Judgement) -> str:
    seeds = sorted({len(entry.seeds) for entry in found.entries})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{count} seeds per agent, each evaluated on fresh episodes that training never saw."


def _environment(built: Page, found: Judgement, env: str) -> None:
    rows = sorted((s for s in found.summaries if s.env == env), key=lambda s: -s.iqm.value)
    solved_at = next(e.solved_at for e in found.entries if e.env == env)
    goal = "" if solved_at is None else f" Solved: {solved_at:g} over 100 training episodes."
    random = f"Random actions score {found.floors[env]:.4g} (mean of {EPISODES} episodes)."
    built.section(env, random + goal)
    built.table(
        ["agent", "interquartile mean", "median", "mean", "by argmax"],
        [[s.agent, *map(with_bounds, (s.iqm, s.median, s.mean, s.argmax))] for s in rows],
        "Mean return on fresh episodes over seeds [95 % interval], by sampled actions; last "
        "column: interquartile mean by the most probable action.",
        mark=[0],
    )
    if solved_at is not None:
        _solving(built, rows)
    for picture in figures.pictures(found, env):
        built.figure(*picture)


def _solving(built: Page, rows: Sequence[Summary]) -> None:
    built.table(
        ["agent", "solved", "env steps to solve", "CPU-s to solve, together", "seeds together",
         "CPU-s to solve, alone", "seeds alone"],
        [[s.agent, f"{s.solved}/{s.seeds}", to_solve(s.steps_to_solve, short),
          to_solve(s.seconds_together), s.together if s.seconds_together else None,
          to_solve(s.seconds_alone), s.alone or None] for s in rows],
        "Median over seeds [95 % interval]; seeds that were not solved are censored at what they "
        "trained. CPU-seconds are of training. Together: of the process, divided by the seeds that "
        "shared it; alone: of seeds that had a process of their own.",
    )  # fmt: skip


def _aggregate(built: Page, found: Judgement) -> None:
    built.section(
        "All environments",
        "Scores are normalised so that random actions have 0 and the score at which an "
        "environment counts as solved has 1.",
    )
    rows = sorted(found.aggregate.items(), key=lambda each: -each[1]["iqm"].value)
    built.table(
        ["agent", "interquartile mean", "median", "mean"],
        [[a, *(with_bounds(row[key]) for key in ("iqm", "median", "mean"))] for a, row in rows],
        "Median and mean are of the environments' means.",
        mark=[0],
    )
    built.figure("aggregate", figures.aggregate(found), "Normalised scores with 95 % intervals.")


def _cards(built: Page, found: Judgement) -> None:
    built.section("What was compared")
    if found.differences:
        built.note(
            "The cards of these agents differ in more than signal, estimator and its options, so a "
            "difference between them is not the estimator's alone.",
            "warning",
        )
        rows = [
            [key, value, _listed(agents)]
            for key, values in found.differences.items()
            for value, agents in values.items()
        ]
        built.table(["setting", "value", "agents"], rows)
    elif len(found.agents) - len(found.peers) > 1:
        built.note("Our agents' cards differ in signal, estimator and its options only.")
    keys = ("tuned_trials", "seeds", "judged_by", "space", "source")
    built.table(
        ["agent", "environment", "tuned trials", "on seeds", "judged by", "search space", "source"],
        [[e.agent, e.env, *(e.tuning.get(key) for key in keys)] for e in found.entries],
        "The effort behind each agent's settings, as its card tells it; a dash: nothing is told.",
    )
    for entry in found.entries:
        built.details(f"card of {entry.agent} on {entry.env}", tomli_w.dumps(entry.card))
    built.table(
        ["agent", "environment", "run"],
        [[e.agent, e.env, str(path)] for e in found.entries for path in e.runs],
        collapsed="runs",
    )


def _method(built: Page, found: Judgement) -> None:
    built.section(
        "How the numbers are made",
        "A seed's score is its mean return over fresh episodes of Gymnasium's own environment, "
        "by sampled actions, with the parameters it ended with. Intervals are 95 % percentile "
        f"intervals of {RESAMPLES:,} bootstrap resamples of seeds (bootstrap seed {found.seed}; "
        f"bands of curves: {stats.RESAMPLES_OF_CURVES:,}), "
        "within each environment; with few seeds such intervals are a little too short. They speak "
        "of other seeds of the same card, not of other settings or environments. The interquartile "
        "mean leaves out the lowest and the highest quarter (Agarwal et al. 2021, "
        "arXiv:2108.13264). Times to solve are Kaplan and Meier's.",
    )
    for note in found.notes:
        built.note(note)
    versions = sorted({f"{k} {v}" for e in found.entries for k, v in e.versions.items()})
    built.details("versions", "\n".join(versions))
    keys = ["environment", "agent", "seed", "status", "env_steps", "solved_at_step",
            "cpu_seconds", "seeds_in_process", "sampled_mean", "argmax_mean"]  # fmt: skip
    rows = [[row[key] for key in keys] for row in found.rows()]
    built.table(keys, rows, "As in seeds.csv.", collapsed="every seed")
