"""All that is said of the seeds of a comparison, computed when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlgrad.comparison import analysis
from rlgrad.comparison.cautions import cautions
from rlgrad.comparison.records import Entry
from rlgrad.comparison.summaries import RESAMPLES, Summary, summarise
from rlgrad.plain_data import plain
from rlgrad.stats import Curve, Interval


@dataclass(frozen=True)
class Judgement:
    """Agents over seeds on one or several environments."""

    entries: tuple[Entry, ...]
    floors: Mapping[str, float]
    """What random actions score, by environment."""
    planned: tuple[str, ...] = ()
    """What was said when it was planned, such as which runs were left out."""
    seed: int = 0
    """Of the bootstrap."""

    @cached_property
    def agents(self) -> list[str]:
        """Names, in the order of asking."""
        return list(dict.fromkeys(entry.agent for entry in self.entries))

    @cached_property
    def peers(self) -> set[str]:
        """Those trained by another library."""
        return {entry.agent for entry in self.entries if entry.peer}

    @cached_property
    def envs(self) -> list[str]:
        """Environments, in the order of asking."""
        return list(dict.fromkeys(entry.env for entry in self.entries))

    @cached_property
    def summaries(self) -> list[Summary]:
        """One per agent and environment."""
        return [summarise(e, self.floors[e.env], self.seed) for e in self.entries]

    @cached_property
    def aggregate(self) -> dict[str, dict[str, Interval]]:
        """Statistics of normalised scores over several environments, by agent."""
        return analysis.aggregate(self.entries, self.floors, self.seed)

    @cached_property
    def improvement(self) -> dict[str, dict[str, Interval]]:
        """Probability that a seed of the first agent scores above one of the second."""
        return analysis.improvement(self.entries, self.floors, self.seed)

    @cached_property
    def differences(self) -> dict[str, dict[str, list[str]]]:
        """Where our agents' cards differ beyond what makes them other agents."""
        return analysis.differences(self.entries)

    @cached_property
    def _drawn(self) -> dict[tuple[str, str, str], dict[str, Curve]]:
        return {}

    def curves(self, env: str, tag: str, against: str = "steps") -> dict[str, Curve]:
        """Curves of a logged number, by agent; those that did not log it are left out.

        Args:
            env: environment.
            tag: of the number, as TensorBoard has it.
            against: "steps" or "seconds" (CPU-seconds, shared by the seeds of the process).
        """
        key = env, tag, against
        if key not in self._drawn:
            own = (entry for entry in self.entries if entry.env == env)
            lines = ((e.agent, analysis.curve(e, tag, against, self.seed)) for e in own)
            self._drawn[key] = {agent: line for agent, line in lines if line is not None}
        return self._drawn[key]

    @cached_property
    def notes(self) -> list[str]:
        """What was said when it was planned and by each training."""
        trained = (f"{e.agent} on {e.env}: {note}" for e in self.entries for note in e.notes)
        return list(dict.fromkeys([*self.planned, *trained]))

    @cached_property
    def verdicts(self) -> list[str]:
        """What may be claimed of the best agent, in words."""
        seeds = {a: min(len(e.seeds) for e in self.entries if e.agent == a) for a in self.agents}
        return analysis.verdicts(self.improvement, seeds)

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before believing any of it."""
        found = cautions(self.entries)
        known = analysis.scales(self.entries, self.floors)
        if missing := [env for env in self.envs if env not in known and len(self.envs) > 1]:
            found.append(
                f"no scale on {', '.join(missing)}: no seed scores above random actions; left out "
                "of the statistics over environments"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """All numbers, safe for JSON: None for what is infinite or unknown."""
        table = {
            "environments": self.envs,
            "agents": self.agents,
            "random_scores": dict(self.floors),
            "summaries": [vars(summary) for summary in self.summaries],
            "aggregate": self.aggregate,
            "improvement": self.improvement,
            "verdicts": self.verdicts,
            "warnings": self.warnings,
            "differences": self.differences,
            "notes": self.notes,
            "bootstrap": {"resamples": RESAMPLES, "seed": self.seed, "level": 0.95},
            "seeds": self.rows(),
            "runs": {f"{e.agent} on {e.env}": [str(p) for p in e.runs] for e in self.entries},
            "cards": {f"{e.agent} on {e.env}": e.card for e in self.entries},
        }
        safe: dict[str, Any] = plain(table)
        return safe

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per seed, as ``seeds.csv`` has them."""
        return [
            {
                "environment": entry.env,
                "agent": entry.agent,
                "seed": r.seed,
                "status": r.status,
                "env_steps": r.steps,
                "solved_at_step": r.solved_at_step,
                "cpu_seconds_to_solve": r.solved_at_seconds,
                "cpu_seconds": r.cpu_seconds,
                "seeds_in_process": r.together,
                **{
                    f"{way}_{key}": r.evaluation.get(way, {}).get(key)
                    for way in ("sampled", "argmax")
                    for key in ("mean", "deviation", "episodes", "unfinished")
                },
                "run": str(r.run),
            }
            for entry in self.entries
            for r in entry.seeds
        ]
