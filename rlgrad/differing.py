"""What is not as it was where a run goes on: said, and the run is marked where it matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlgrad.saving import Standing
from rlgrad.trainer import Trainer
from rlgrad.versions import versions


def check_versions(about: Mapping[str, Any], standing: Standing, notes: list[str]) -> None:
    """Say where what trains now is not what trained before."""
    before, now = about["versions"], versions()
    ours = {k: v for k, v in now.items() if not k.startswith(("stable-baselines3", "sb3"))}
    changed = [f"{k} {before.get(k)} -> {v}" for k, v in ours.items() if before.get(k) != v]
    if changed:
        standing.exact = False
        notes.append(f"{', '.join(changed)} since it began: the run is marked as not exact")


def check_callbacks_kept(
    about: dict[str, Any], given: list[str], standing: Standing, notes: list[str]
) -> None:
    """Say where other callbacks watch than before."""
    before = about.get("callbacks", [])
    if before != given:
        standing.exact = False
        notes.append(
            f"callbacks {', '.join(before) or '(none)'} -> {', '.join(given) or '(none)'} since it "
            "began: the run is marked as not exact; rlgrad.resume(run, callbacks=[...]) takes them"
        )
    about["callbacks"] = given


def say_schedule(trainer: Trainer, before: int, notes: list[str]) -> None:
    """Say what a larger budget does to step sizes that fall over it."""
    config, steps = trainer.config, max(outcome.steps for outcome in trainer.outcomes)
    total = config.total_timesteps
    if config.anneal_steps or config.learning_rate_final == 1 or total == before:
        return
    share = trainer.schedule._replace(horizon=before).share(steps)
    notes.append(
        f"step sizes fall over -n, so they follow that of {total:,} from here on: at {steps:,} "
        f"env steps {trainer.schedule.share(steps):.0%} of the full ones instead of {share:.0%}; "
        "--anneal-steps in the first training keeps a schedule apart from -n"
    )
