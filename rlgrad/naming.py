"""Names of environments and agents as names of files and folders, and their namespaces."""

from __future__ import annotations

import re


def safe_name(name: str) -> str:
    """A name that is one harmless path component: ``ALE/Pong-v5`` -> ``ALE-Pong-v5``."""
    safe = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip(".")[:120]
    return safe or "unnamed"


def namespace(env_id: str) -> str:
    """``ALE`` of ``ALE/Pong-v5``; empty where there is none."""
    before, slash, _ = env_id.rpartition(":")[2].partition("/")
    return before if slash else ""
