"""Tuning agents on an environment: the space, the trials, and the card that comes of them."""
