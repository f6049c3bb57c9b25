"""What there is: agents, environments, estimators and problems, as rows."""

from __future__ import annotations

from typing import Any

from rlgrad import card_files as cards
from rlgrad.errors import UsageError, nearest

NOTES = {
    "estimators": "agent: the card of --estimator NAME; to actor-critic add --action-critic "
    "where f is to be differentiable"
}
"""What is to be said below a table."""


def agents() -> list[dict[str, Any]]:
    """Agent cards: name, signal ("peer" where Stable-Baselines3 trains it), estimator, summary."""
    rows = []
    for name, path in cards.find("agents").items():
        card = cards.read_agent(path)
        config = {"signal": "gae", "estimator": "reinforce", **card.config}
        if card.algorithm:
            config = {"signal": "peer", "estimator": "-"}
        rows.append(
            {
                "name": name,
                "signal": config["signal"],
                "estimator": config["estimator"],
                "summary": card.summary,
                "source": card.source,
                "algorithm": card.algorithm,
                "card": str(path),
            }
        )
    return rows


def envs() -> list[dict[str, Any]]:
    """Environment cards: id, solved-at, simulator, summary, references."""
    rows = []
    for path in cards.find("envs").values():
        card = cards.read_env(path)
        rows.append(
            {
                "id": card.id,
                "solved_at": card.solved_at,
                "simulator": card.simulator or "-",
                "env_steps": card.config.get("total_timesteps"),
                "summary": card.summary,
                "source": "; ".join(
                    f"{r['agent']} {r['score']} ({r['source']}, {r['protocol']})"
                    for r in card.references
                )
                or "-",
                "card": str(path),
            }
        )
    return rows


def estimators() -> list[dict[str, Any]]:
    """Estimators: name, traits, source, and the card that ``--estimator NAME`` picks."""
    from rlgrad.estimators import ESTIMATORS

    known, rows = cards.find("agents"), []
    for name, cls in ESTIMATORS.items():
        traits = cls.traits
        needs = [
            *(["f at every choice"] if traits.enumerable else []),
            *(["differentiable f"] if traits.differentiable else []),
            *(["binary"] if traits.binary else []),
            *([f"{traits.values} values of f"] if traits.values > 1 else []),
        ]
        served = traits.values == 1 and not traits.enumerable  # by an environment
        card = name if name in known else "actor-critic"
        rows.append(
            {
                "name": name,
                "unbiased": traits.unbiased,
                "trained": traits.trained,
                "needs": ", ".join(needs) or "f once",
                "agent": card if served else "-",
                "summary": (cls.__doc__ or "").splitlines()[0],
                "source": cls.source,
            }
        )
    return rows


def problems() -> list[dict[str, Any]]:
    """Problems with a known gradient: name, shape, joint choices, summary, source."""
    from rlgrad.problems import PROBLEMS, problem

    rows = []
    for each in map(problem, PROBLEMS):
        factors, categories = each.logits.shape
        rows.append(
            {
                "name": each.name,
                "factors": factors,
                "categories": categories,
                "choices": each.choices,
                "summary": each.summary,
                "source": each.source,
            }
        )
    return rows


def rows(what: str) -> list[dict[str, Any]]:
    """Rows of "agents", "envs", "estimators" or "problems".

    Raises:
        UsageError: for anything else, with the nearest of them.
    """
    tables = {
        "agents": agents,
        "envs": envs,
        "estimators": estimators,
        "problems": problems,
    }
    if what not in tables:
        raise UsageError(f"cannot list {what!r}; {nearest(what, tables)}")
    return tables[what]()
