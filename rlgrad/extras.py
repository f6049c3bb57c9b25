"""Optional packages that register environments of a namespace: ``ALE/...`` and ``MinAtar/...``.

MinAtar is under the GPL: it is imported where a user has installed it, and nothing of it is here.
"""

from __future__ import annotations

import gymnasium

from rlgrad.errors import UsageError


def register(namespace: str) -> None:
    """Have the package of a namespace register its environments; does nothing for others.

    Raises:
        UsageError: where it is missing, with the command that installs it.
    """
    try:
        if namespace == "ALE":
            import ale_py  # noqa: F401
        elif namespace == "MinAtar" and not _knows(namespace):
            import minatar.gym

            minatar.gym.register_envs()
    except ModuleNotFoundError as error:
        extra = {"ALE": "atari", "MinAtar": "minatar"}[namespace]
        raise UsageError(
            f"{namespace}/... environments need {error.name}, which is not installed: "
            f"pip install 'rlgrad[{extra}]'"
        ) from None


def _knows(namespace: str) -> bool:
    return any(each.startswith(f"{namespace}/") for each in gymnasium.registry)
