"""A package with an environment of its own; importing it registers the environment.

In this folder: ``rlgrad train my_pkg:MyEnv-v0``. docs/custom_environments.md explains it.
"""

import gymnasium

gymnasium.register(
    id="MyEnv-v0",
    entry_point="my_pkg.my_env:MyEnv",
    max_episode_steps=50,  # longer episodes are truncated
    reward_threshold=0.8,  # the mean return at which a seed counts as solved
)
