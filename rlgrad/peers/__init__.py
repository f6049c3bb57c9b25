"""Peers: agents that Stable-Baselines3 trains, unmodified, judged beside rlgrad's own."""
