"""What a run's directory says of how to go on with it: its card, description and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rlgrad.callbacks.base import Callback
from rlgrad.callbacks.calling import wanted_infos
from rlgrad.card_files import EnvCard
from rlgrad.cards import Resolved
from rlgrad.choosing import same_bits
from rlgrad.errors import UsageError
from rlgrad.forms import ABOUT
from rlgrad.loading import import_allowed
from rlgrad.options import Options, checked
from rlgrad.ranks.one import Ranks
from rlgrad.reading import conform, read_json
from rlgrad.store import Run, find_run, read_run

_OF_A_PROCESS = ("quiet", "log_dir", "rank_timeout")  # options that do not last


class Asked(NamedTuple):
    """What ``restart`` was asked for."""

    name: str | Path | Run
    total: int | None
    given: dict[str, Any]
    modules: Sequence[str]

    def run(self, ranks: Ranks) -> Run:
        """The run, which the leader finds."""
        path = ""
        if ranks.leads:
            name = self.name.path if isinstance(self.name, Run) else self.name
            path = str(find_run(name, self.given["log_dir"]))
        run = read_run(Path(ranks.told(path)))
        if run.peer is not None:
            raise UsageError(
                f"{run.path} is of the peer {run.agent[:80]}: Stable-Baselines3 does not store all "
                "that it would need to go on; train it again"
            )
        import_allowed(run, self.modules)
        return run


def resolved_of(run: Run, total: int | None) -> Resolved:
    """What the run's card says, with another budget if there is one."""
    have = run.config.total_timesteps
    if total is not None and total < have:
        raise UsageError(f"got -n {total}; expected at least the {have} of {run.path}")
    env = EnvCard(
        run.env_id,
        run.path / "card.toml",
        simulator=run.simulator,
        solved_at=run.solved_at,
        kwargs=run.env_kwargs,
        modules=run.env_modules,
        masked=run.masked,
    )
    config = replace(run.config, total_timesteps=total or have)
    return Resolved(env, run.agent, config, (), vec=run.vec)


def about_of(run: Run) -> dict[str, Any]:
    """What run.json says of a run.

    Raises:
        UsageError: where it is damaged.
    """
    path = run.path / "run.json"
    try:
        about = read_json(path)
        conform(about, ABOUT)
        return {**about, "resumed": about.get("resumed", [])}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a run's description: {error}") from None


def _vec(resolved: Resolved, asked: str) -> dict[str, str]:
    """The option that steps the environments as before, or by an engine with the same bits.

    Measuring again could choose another than the run's card tells.
    """
    card, chosen = resolved.env, resolved.vec
    if not chosen:
        return {}
    if asked in ("", "auto"):
        return {"vec": "auto" if chosen == "simulator" else chosen}
    if same_bits(card, asked) != same_bits(card, chosen):
        raise UsageError(
            f"got --vec {asked}, and {chosen} steps the environments of this run, with other "
            "episodes; leave --vec out, or train again"
        )
    return {"vec": asked}


def options_of(
    about: Mapping[str, Any],
    resolved: Resolved,
    given: Mapping[str, Any],
    callbacks: Sequence[Callback],
) -> Options:
    """The run's own options, but for those that are given."""
    own = {key: value for key, value in about["options"].items() if key not in _OF_A_PROCESS}
    options = checked({**own, **given, **_vec(resolved, given.get("vec", ""))})
    return replace(options, log_info=wanted_infos(callbacks, options.log_info))
