"""Torch-native batched environments; importing this registers them with Gymnasium."""

from rlgrad.simulators.registration import SIMULATORS

__all__ = ["SIMULATORS"]
