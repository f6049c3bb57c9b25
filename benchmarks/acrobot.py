"""Acrobot-v1, from process start to solved, beside Stable-Baselines3's A2C, on one core.

    python benchmarks/acrobot.py [--repeats 3] [--agents relax,actor-critic]

Solved: the last 100 training episodes have a mean return of at least -100. Each turn trains one
seed (100, 101, ...) with every agent and the peer, each in a process of its own, one after another;
ratios are taken turn by turn, of whole processes and of training alone, which leaves out imports
and set-up on both sides. The peer has the zoo's settings (16 environments, VecNormalize).
"""

from __future__ import annotations

import argparse

from peers import pin, ratios, sb3, table, take_turns, until_solved

ENV, FIRST = "Acrobot-v1", 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--agents", default="relax,actor-critic")
    arguments = parser.parse_args()
    pin()
    agents = arguments.agents.split(",")
    contenders = {a: lambda seed, a=a: until_solved(ENV, a, [seed]) for a in agents}
    contenders["Stable-Baselines3 A2C"] = lambda seed: sb3(ENV, "A2C", seed)
    found = take_turns(contenders, range(FIRST, FIRST + arguments.repeats))
    print(f"\n{ENV}, process start to solved, {arguments.repeats} seeds from {FIRST}")
    table(found)
    for agent in agents:
        ratios(found, agent, "\nwall-clock of the process", lambda job: job.wall)
        ratios(found, agent, "wall-clock of training alone", lambda job: job.training_wall)
        ratios(found, agent, "CPU-seconds of the process", lambda job: job.cpu)
        ratios(found, agent, "CPU-seconds of training alone", lambda job: job.training)


if __name__ == "__main__":
    main()
