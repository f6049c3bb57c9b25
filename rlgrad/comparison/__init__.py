"""Comparing agents: what to train, judging it, and the report."""
