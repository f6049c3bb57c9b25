"""Callbacks: what a user wants done while a run trains; see docs/callbacks.md."""

from rlgrad.callbacks.base import Callback, Progress
from rlgrad.callbacks.builtin import CustomScalars, InfoScalars, StopOnReward

__all__ = ["Callback", "CustomScalars", "InfoScalars", "Progress", "StopOnReward"]
