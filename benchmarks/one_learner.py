"""One learner on CartPole-v1, from process start to solved, beside peers, on one core.

    python benchmarks/one_learner.py [--repeats 3] [--peers sb3,jax] [--purejaxrl CHECKOUT]
    python benchmarks/one_learner.py --seeds 100 [--repeats 5]

Solved: the last 100 training episodes have a mean return of at least 475. Each turn trains one seed
(100, 101, ...) with rlgrad's `relax` and every peer, each in a process of its own, one after
another; ratios are taken turn by turn. `relax` stops as its peers do; `relax, evaluated` is the
main job as a user types it, with its evaluation of 200 episodes. `peer_sb3.py` and `peer_jax.py`
say how the peers are run and stopped. The JAX peers' environment is gymnax's, their compiling is
part of the process.

`--seeds N` trains the seeds 100 to 99 + N instead and says how many are solved within 100,000 env
steps, and what training costs where one of them (as many as `--repeats`) has a process of its own.
"""

from __future__ import annotations

import argparse
import statistics

from peers import Jax, main_job, pin, ratios, sb3, spread, table, take_turns, until_solved

ENV, FIRST = "CartPole-v1", 100


def reliability(agent: str, count: int, alone: int) -> None:
    """How many of many seeds are solved, and what one costs alone."""
    steps = until_solved(ENV, agent, range(FIRST, FIRST + count)).steps
    solved = [step for step in steps if step is not None]
    ranked = sorted(solved) + [float("inf")] * (count - len(solved))
    print(f"{agent}: {len(solved)} of {count} seeds solved within 100,000 env steps")
    print(f"  env steps, median {statistics.median_low(ranked):,.0f}, slowest {ranked[-1]:,.0f}")
    missed = [FIRST + i for i, step in enumerate(steps) if step is None]
    if missed:
        print(f"  not solved: {', '.join(map(str, missed))}")
    jobs = [until_solved(ENV, agent, [FIRST + i]) for i in range(alone)]
    print(f"  CPU-seconds of training, one seed alone: {spread([job.training for job in jobs])}")


def contest(agent: str, peers: str, jax: Jax, repeats: int) -> None:
    """Train the same seeds with rlgrad and with its peers, in turns."""
    contenders = {agent: lambda seed: until_solved(ENV, agent, [seed])}
    contenders[f"{agent}, evaluated"] = lambda seed: main_job(ENV, agent, [seed])
    if "sb3" in peers:
        contenders["Stable-Baselines3 PPO"] = lambda seed: sb3(ENV, "PPO", seed)
    for name in jax.names() if "jax" in peers else ():
        contenders[f"{name} PPO"] = lambda seed, name=name: jax.job(name, [seed])
    found = take_turns(contenders, range(FIRST, FIRST + repeats))
    print(f"\n{ENV}, process start to solved, {repeats} seeds from {FIRST}")
    table(found)
    ratios(found, agent, "\nprocess wall-clock", lambda job: job.wall)
    ratios(found, agent, "\nprocess CPU-seconds", lambda job: job.cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--agent", default="relax")
    parser.add_argument("--seeds", type=int, default=0, help="train so many instead")
    Jax.add_flags(parser)
    arguments = parser.parse_args()
    pin()
    if arguments.seeds:
        reliability(arguments.agent, arguments.seeds, arguments.repeats)
    else:
        contest(arguments.agent, arguments.peers, Jax.of(arguments), arguments.repeats)


if __name__ == "__main__":
    main()
