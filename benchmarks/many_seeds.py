"""Twenty seeds of CartPole-v1 at once: CPU-seconds per seed until the last is solved, one core.

    python benchmarks/many_seeds.py [--seeds 20] [--repeats 1] [--alone 3] [--purejaxrl CHECKOUT]

rlgrad trains all seeds in one process, PureJaxRL and rejax by `jax.vmap`; Stable-Baselines3 trains
one after another, so `--alone` seeds stand for all. Printed are CPU-seconds per seed, of the whole
process and of training alone (without imports, set-up, compiling, logging and checkpoints), and
their ratios. Turn k takes the seeds from 100 + 20 k on. A seed that is not solved within its budget
(rlgrad 100,000 env steps, Stable-Baselines3 the zoo's, the JAX peers 500,000) counts with what it
spent, so that a ratio is then too small.
"""

from __future__ import annotations

import argparse

from peers import Jax, Job, pin, ratios, sb3, table, take_turns, until_solved

ENV, FIRST = "CartPole-v1", 100
AGENTS = ("actor-critic", "relax")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--alone", type=int, default=3, help="seeds of Stable-Baselines3 per turn")
    Jax.add_flags(parser)
    arguments = parser.parse_args()
    pin()
    S, jax, peers = arguments.seeds, Jax.of(arguments), arguments.peers

    def seeds(turn: int) -> range:
        return range(FIRST + turn * S, FIRST + (turn + 1) * S)

    together = {a: lambda turn, a=a: until_solved(ENV, a, seeds(turn)) for a in AGENTS}
    for name in jax.names() if "jax" in peers else ():
        together[f"{name} PPO"] = lambda turn, name=name: jax.job(name, seeds(turn))
    alone = {
        f"Stable-Baselines3 {name}": lambda turn, name=name: mean(
            [sb3(ENV, name, seed) for seed in seeds(turn)[: arguments.alone]], S
        )
        for name in (("A2C", "PPO") if "sb3" in peers else ())
    }
    found = take_turns({**together, **alone}, range(arguments.repeats))
    print(f"\n{ENV}, per seed of {S} (Stable-Baselines3: {arguments.alone} seeds, one by one)")
    table(found, S)
    for agent in AGENTS:
        ratios(found, agent, "\nCPU-seconds of training per seed", lambda job: job.training)
        ratios(found, agent, "CPU-seconds per seed, compiling apart", lambda j: j.cpu - j.compiling)


def mean(jobs: list[Job], seeds: int) -> Job:
    """Seeds one by one, as if all of them had been trained so."""
    each = seeds / len(jobs)
    seen = [each * sum(getattr(job, field) for job in jobs) for field in ("wall", "cpu")]
    steps = tuple(step for job in jobs for step in job.steps)
    training = each * sum(job.training for job in jobs)
    return Job(*seen, max(job.memory for job in jobs), steps, training)


if __name__ == "__main__":
    main()
