"""Names of the shipped agents: rlgrad's own, and the peers that Stable-Baselines3 trains."""

from __future__ import annotations

from rlgrad.card_files import find, read_agent

_CARDS = {name: read_agent(path) for name, path in find("agents").items()}
OWN = sorted(name for name, card in _CARDS.items() if not card.algorithm)
PEERS = sorted(_CARDS.keys() - set(OWN))
