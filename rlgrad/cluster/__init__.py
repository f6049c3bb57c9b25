"""Trainings as tasks of a Ray cluster: what a node does, what the driver keeps."""
