"""The estimators at a half-trained CartPole policy: the table that the README quotes in part.

    python benchmarks/variance_table.py

Trains actor-critic for 30,000 of 60,000 env steps on seed 1000, which no reported result uses, and
measures all estimators at its newest checkpoint.
"""

from __future__ import annotations

import tempfile

import rlgrad
from rlgrad.lab.printing import print_table


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = rlgrad.train(
            "CartPole-v1", "actor-critic", seeds=[1000], total_timesteps=30_000,
            anneal_steps=60_000, eval_episodes=1, log_dir=folder, quiet=True,
        )  # fmt: skip
        table = rlgrad.variance(run=run)
        print_table(table)
        print(f"{table.seconds:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
