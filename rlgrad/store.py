"""Run directories: what a run leaves behind, written so that nothing is lost or half-written.

runs/<env>/<agent>/<time>/
    card.toml        the resolved card: environment, agent, seeds, every hyperparameter
    run.json         command line, versions, machine, notes
    metrics.jsonl    the record: one line per seed and logged step
    checkpoints/     step-<env steps>.safetensors: tensors, and counters as JSON in the header;
                     best-<seed>.safetensors: a seed where its evaluation was best
    seed-<n>/        TensorBoard events, a view of the record
    result.json      how each seed ended, with its evaluation
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlgrad import checkpoints
from rlgrad.config import Config
from rlgrad.errors import UsageError, shown
from rlgrad.forms import RESULT, RUN, record
from rlgrad.options import parse_seeds
from rlgrad.peer_cards import Peer, read_tables
from rlgrad.reading import conform, read_json, read_toml

FORMAT = 1
LONGEST = 255  # characters of a name that messages quote
_NAME = re.compile(r"step-[0-9]{1,18}\.safetensors")


@dataclass(frozen=True)
class Run:
    """A run directory, as read back.

    Attributes:
        path: of the directory.
        env_id: Gymnasium id.
        agent: name of the agent.
        seeds: trained together.
        config: every hyperparameter.
        env_kwargs: for the environment's constructor.
        env_modules: that registered the environment.
        peer: what Stable-Baselines3 trained; None: one of rlgrad's agents.
        simulator: that stood in for the environment in training; empty: none.
        solved_at: the card's mean return that counts as solved; None: Gymnasium's.
        vec: what steps the environments in training; empty: it is not told.
        masked: whether the environment's action masks are used.
    """

    path: Path
    env_id: str
    agent: str
    seeds: tuple[int, ...]
    config: Config
    env_kwargs: dict[str, Any]
    env_modules: tuple[str, ...] = ()
    peer: Peer | None = None
    simulator: str = ""
    solved_at: float | None = None
    vec: str = ""
    masked: bool = False

    def metrics(self) -> list[dict[str, Any]]:
        """The record: one dict per seed and logged step.

        Raises:
            UsageError: where it is damaged.
        """
        path = self.path / "metrics.jsonl"
        try:
            return list(record(path, self.seeds))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read as metrics: {error}") from None

    def result(self) -> dict[str, Any]:
        """How each seed ended; empty while the run goes on.

        Raises:
            UsageError: where it is damaged.
        """
        path = self.path / "result.json"
        try:
            result = read_json(path)
            conform(result, RESULT)
            if not {row["seed"] for row in result["seeds"]} <= set(self.seeds):
                raise ValueError("it tells of seeds that the run has not")
            return result
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read as a result: {error}") from None

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        found = (self.path / "checkpoints").glob("step-*.safetensors")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def best(self, seed: int) -> Path:
        """File of a seed where its evaluation was best, if there is one."""
        return self.path / "checkpoints" / f"best-{seed}.safetensors"


def find_run(name: str | Path, log_dir: str | Path = "runs") -> Path:
    """A run directory from its path, or "latest" for the newest below ``log_dir``."""
    if str(name) == "":
        raise UsageError("got run ''; expected the path of a run directory, or latest")
    if str(name) != "latest":
        return Path(name)
    cards = Path(log_dir).glob("*/*/*/card.toml")
    newest = max(filter(Path.is_file, cards), key=lambda x: x.stat().st_mtime_ns, default=None)
    if newest is None:
        raise UsageError(f"no run below {log_dir}; train one, or name another with --log-dir")
    return newest.parent


def named_run(name: str | Path | Run, log_dir: str | Path = "runs") -> Run:
    """A run by its path or "latest", see ``find_run``; a ``Run`` is itself.

    Raises:
        UsageError: as ``read_run``.
    """
    return name if isinstance(name, Run) else read_run(find_run(name, log_dir))


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        UsageError: where there is no run, or its card is damaged or of a newer format.
    """
    card_path = path / "card.toml"
    try:
        card = read_toml(card_path)
    except OSError:
        raise UsageError(f"{path} is no run directory: it has no readable card.toml") from None
    except ValueError as error:
        raise UsageError(f"{card_path}: not a valid card: {error}") from None
    if card.get("format") != FORMAT:
        raise UsageError(
            f"{card_path}: format {shown(card.get('format'))}; this rlgrad reads format {FORMAT}: "
            "update rlgrad, or train again"
        )
    try:
        conform(card, RUN, "the card")
        env, seeds = card["environment"], tuple(parse_seeds(card.get("seeds")))
        config, peer = read_tables(card, str(card_path))
        for what, name in (("agent", card["agent"]), ("environment", env["id"])):
            if len(name) > LONGEST:
                raise ValueError(f"its {what}'s name has {len(name):,} characters")
        if not math.isfinite(env.get("solved_at", 0.0)):
            raise ValueError(f"solved_at is {env['solved_at']}; expected a finite score")
    except ValueError as error:
        text = str(error)
        raise UsageError(text if str(path) in text else f"{card_path}: {text}") from None
    return Run(
        path,
        env["id"],
        card["agent"],
        seeds,
        config,
        env["kwargs"],
        tuple(env["modules"]),
        peer,
        env["simulator"],
        float(env["solved_at"]) if "solved_at" in env else None,
        env.get("vec", ""),
        env.get("action_masks", False),
    )


def save_checkpoint(
    run: Run, tensors: Mapping[str, Tensor], counters: Mapping[str, Any], keep: int = 0
) -> Path:
    """Store tensors and counters as one file, whole or not at all.

    Args:
        run: that it belongs to.
        tensors: by name.
        counters: plain data; "steps" are the env steps of each seed, whose mean is the file's name.
        keep: how many of the newest files stay; 0: all.
    """
    steps = counters["steps"]
    path = run.path / "checkpoints" / f"step-{sum(steps) // len(steps):012d}.safetensors"
    checkpoints.write(path, tensors, counters)
    for old in run.checkpoints()[:-keep] if keep else ():
        if old != path:
            old.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, counters) of a checkpoint file.

    Raises:
        UsageError: where the file is missing, damaged or of a newer format.
    """
    return checkpoints.read(path)
