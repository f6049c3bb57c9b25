"""The table of results: rlgrad's agents with their tuned cards beside Stable-Baselines3's.

    python benchmarks/results_table.py                                  # everything; hours
    python benchmarks/results_table.py --envs LunarLander-v3 --agents actor-critic,sb3-a2c
    python benchmarks/results_table.py --only-print

Ten seeds (0-9) of each agent train as many env steps on each environment, and are evaluated on 100
fresh episodes. It rests on `rlgrad compare`: finished runs below --log-dir are used again, so it
may be stopped anywhere and called again, in parts, for days; what is trained by other versions or
another card is trained anew. Agents go one after another, in one process at a time, so that their
seconds can be compared; --jobs trains faster and blurs them.

Each environment that is done is written to benchmarks/results/results_table.json, the table of all
of them to results_table.md beside it, and the page with pictures to docs/results.md. Agents that a
call leaves out keep what an earlier call found by the same steps and seeds; the picture of an
environment is drawn by a call that names all agents of its table. Peers have the settings of
rl-baselines3-zoo (commit 22e3ff2) on CartPole, Acrobot, MountainCar and LunarLander; for
FrozenLake, Taxi and MinAtar the zoo has none for A2C and PPO: there they have Stable-Baselines3's
defaults.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import results_page

import rlgrad
from rlgrad.card_files import agent_card
from rlgrad.drawing import png
from rlgrad.errors import UsageError
from rlgrad.output import write_whole

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parent.parent / "docs" / "results.md"
OURS = "reinforce-learned,actor-critic,rebar,relax,all-action-control"
PEERS = "sb3-a2c,sb3-ppo"
STEPS = {
    "CartPole-v1": 100_000,
    "Acrobot-v1": 50_000,
    "MountainCar-v0": 200_000,
    "LunarLander-v3": 1_000_000,
    "FrozenLake-v1": 100_000,
    "Taxi-v4": 100_000,  # Gymnasium 1.4 no longer makes Taxi-v3
    "MinAtar/Breakout-v1": 1_000_000,
}
"""Env steps per seed."""


def trained(env: str, agents: list[str], flags: dict) -> tuple[list[str], dict[str, str]]:
    """(agents with all their seeds trained, why others are left out)."""
    ready, missing = [], {}
    for agent in agents:
        try:
            rlgrad.compare(env, agents=agent, **flags)
            ready.append(agent)
        except UsageError as error:
            missing[agent] = str(error)
            print(f"{agent} on {env} is left out: {error}", flush=True)
    return ready, missing


def wall(runs: list[str]) -> float:
    """Seconds of training per seed: those of a process, divided by the seeds that share it."""
    results = [json.loads((Path(run) / "result.json").read_text()) for run in runs]
    return sum(r["wall_seconds"] for r in results) / sum(len(r["seeds"]) for r in results)


def judged(env: str, ready: list[str], missing: dict[str, str], flags: dict) -> dict:
    """What the table says of an environment, as data."""
    told = rlgrad.compare(env, agents=ready, **flags).to_dict()
    rows = []
    for row in told["summaries"]:
        card = told["cards"][f"{row['agent']} on {env}"]
        goal = card["environment"].get("solved_at")
        own = [seed for seed in told["seeds"] if seed["agent"] == row["agent"]]
        scores = [seed["sampled_mean"] for seed in own]
        rows.append(
            {
                "agent": row["agent"],
                "peer": row["peer"],
                "seeds": row["seeds"],
                "failed": row["failed"],
                "iqm": row["iqm"],
                "argmax": row["argmax"],
                "scores": scores,
                "solved_at": goal,
                "reached": None if goal is None else sum((s or -1e300) >= goal for s in scores),
                "wall_seconds": wall(told["runs"][f"{row['agent']} on {env}"]),
                "cpu_seconds": row["cpu_seconds"],
                "card": card,
            }
        )
    return {
        "steps": flags["total_timesteps"],
        "seeds": flags["seeds"],
        "episodes": flags["eval_episodes"],
        "random": told["random_scores"][env],
        "agents": rows,
        "left_out": missing,
        "warnings": told["warnings"],
    }


def merged(new: dict, old: dict | None) -> dict:
    """A table with the rows of an earlier one that it lacks."""
    if old is None or any(old.get(key) != new[key] for key in ("steps", "seeds", "episodes")):
        return new
    names = {row["agent"] for row in new["agents"]}
    kept = [row for row in old["agents"] if row["agent"] not in names]
    has = {row["agent"] for row in kept}
    lacks = {agent: why for agent, why in new["left_out"].items() if agent not in has}
    return {**new, "agents": new["agents"] + kept, "left_out": lacks}


def efforts(envs: list[str]) -> dict[str, dict[str, dict]]:
    """The [tuning] table of every card of rlgrad's own agents."""
    cards = {agent: agent_card(agent) for agent in OURS.split(",")}
    return {env: {a: card.tuning.get(env, {}) for a, card in cards.items()} for env in envs}


def draw(env: str, ready: list[str], flags: dict) -> None:
    """Learning curves, for the page."""
    figure = rlgrad.compare(env, agents=ready, **flags).plot(env)
    write_whole(PAGE.parent / "images" / picture(env), png(figure))


def picture(env: str) -> str:
    """File of an environment's learning curves."""
    return f"results-{env.replace('/', '-')}.png"


def write(found: dict[str, dict], path: Path) -> None:
    """The record, its table, and the page where the record is the project's own."""
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(path.with_suffix(".md"), results_page.markdown(found).encode())
    if path.parent != RESULTS:
        return
    envs, agents = list(STEPS), f"{OURS},{PEERS}".split(",")
    files = {env: f"images/{picture(env)}" for env in found}
    drawn = {env: file for env, file in files.items() if (PAGE.parent / file).exists()}
    text = results_page.page(found, envs, agents, efforts(envs), drawn)
    write_whole(PAGE, text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", default=",".join(STEPS))
    parser.add_argument("--agents", default=f"{OURS},{PEERS}")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--steps", type=int, help="env steps per seed, in place of the table's")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--log-dir", default="runs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of table and JSON")
    parser.add_argument("--only-print", action="store_true", help="what is on record")
    arguments = parser.parse_args()
    path = arguments.output / "results_table.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for env in () if arguments.only_print else arguments.envs.split(","):
        flags = {
            "seeds": arguments.seeds,
            "total_timesteps": arguments.steps or STEPS.get(env, 100_000),
            "eval_episodes": arguments.episodes,
            "jobs": arguments.jobs,
            "log_dir": arguments.log_dir,
        }
        ready, missing = trained(env, arguments.agents.split(","), flags)
        if not ready:
            continue
        found[env] = merged(judged(env, ready, missing, flags), found.get(env))
        arguments.output.mkdir(parents=True, exist_ok=True)
        if arguments.output == RESULTS and len(ready) == len(found[env]["agents"]):
            draw(env, ready, flags)
        write(found, path)
    if arguments.only_print and arguments.output == RESULTS:
        write(found, path)  # the page follows the cards, too
    print(results_page.markdown(found), end="")


if __name__ == "__main__":
    main()
