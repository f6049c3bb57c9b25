"""A peer's process: PPO of rejax or PureJaxRL on gymnax's CartPole-v1, until all seeds are solved.

    python benchmarks/peer_jax.py rejax 475 [--seeds 100,101] [--purejaxrl CHECKOUT]

Solved: the mean return of the last 100 training episodes reaches the score, as for all. Several
seeds are trained by `jax.vmap`. Prints one line of JSON; compiling is timed apart from training.

rejax trains by its own `train`, a few iterations per call; an environment around gymnax's keeps the
returns of training episodes in its state, and rejax's `eval_callback` reads them instead of playing
episodes for evaluation. Settings are those of its repository for CartPole-v1
(`configs/gymnax/cartpole.yaml`); nothing there falls with the budget.

PureJaxRL's `train` is one program from the first step to the last and cannot stop. It runs its
whole budget, the solving update is found in the returns it gives back, and the share of the run's
seconds after that is counted as unused. Settings are those at the end of its `ppo.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

WINDOW = 100
CALL, MOST = 2_500, 500_000  # env steps of one call of rejax's train; when to give a seed up
REJAX = {
    "agent_kwargs": {"activation": "tanh"},
    "num_envs": 5,
    "num_steps": 100,
    "num_epochs": 5,
    "num_minibatches": 5,
    "learning_rate": 0.00075,
    "max_grad_norm": 0.5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_eps": 0.2,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
}
PUREJAXRL = {
    "LR": 2.5e-4,
    "NUM_ENVS": 4,
    "NUM_STEPS": 128,
    "UPDATE_EPOCHS": 4,
    "NUM_MINIBATCHES": 4,
    "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95,
    "CLIP_EPS": 0.2,
    "ENT_COEF": 0.01,
    "VF_COEF": 0.5,
    "MAX_GRAD_NORM": 0.5,
    "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1",
    "ANNEAL_LR": True,
}


class Spent:
    """Wall-clock and CPU-seconds of blocks of code."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what runs inside `with`."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


class Recorded:
    """A gymnax environment whose state keeps the returns and ends of its last 100 episodes."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env" or name.startswith("__"):  # asked for while it is copied
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, key: Any, params: Any) -> Any:
        """As gymnax's, with no episode on record."""
        observation, state = self.env.reset(key, params)
        zero = jnp.zeros((), jnp.int32)
        return observation, (state, 0.0, zero, zero, jnp.zeros(WINDOW), jnp.full(WINDOW, -1))

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        """As gymnax's; an episode that ends is put on record."""
        inner, total, clock, count, returns, ends = state
        observation, inner, reward, done, info = self.env.step(key, inner, action, params)
        total, clock, slot = total + reward, clock + 1, count % WINDOW
        returns = returns.at[slot].set(jnp.where(done, total, returns[slot]))
        ends = ends.at[slot].set(jnp.where(done, clock, ends[slot]))
        state = inner, total * (1 - done), clock, count + done, returns, ends
        return observation, state, reward, done, info


def last_mean(algorithm: Any, state: Any, key: Any) -> Any:
    """Mean return of the last 100 episodes of all lanes; -inf while there are fewer."""
    *_, count, returns, ends = state.env_state
    last = jnp.argsort(-ends.reshape(-1))[:WINDOW]
    return jnp.where(count.sum() >= WINDOW, returns.reshape(-1)[last].mean(), -jnp.inf)


def compiled(function: Callable[..., Any], arguments: Any, many: bool) -> Any:
    """A function over one seed or many, ready to run."""
    return jax.jit(jax.vmap(function) if many else function).lower(arguments).compile()


def rejax(score: float, keys: Any, many: bool, compiling: Spent, training: Spent) -> list[Any]:
    """Env steps at which each seed was solved, in multiples of a call."""
    from rejax import PPO
    from rejax.compat import create

    env, params = create("CartPole-v1")
    settings = {**REJAX, "total_timesteps": CALL, "eval_freq": CALL}
    ppo = PPO.create(env=Recorded(env), env_params=params, skip_initial_evaluation=True, **settings)
    ppo = ppo.replace(eval_callback=last_mean)
    with compiling.counting():
        begin = compiled(ppo.init_state, keys, many)
        state = begin(keys)
        train = compiled(lambda state: ppo.train(train_state=state), state, many)
    steps: list[Any] = [None] * (len(keys) if many else 1)
    with training.counting():
        for now in range(CALL, MOST + 1, CALL):
            state, means = train(state)
            for i, mean in enumerate(np.asarray(means).reshape(len(steps))):
                if steps[i] is None and mean >= score:
                    steps[i] = now
            if None not in steps:
                break
    return steps


def first_solved(info: dict[str, Any], score: float) -> int | None:
    """The update, counted from 1, that ended with the last 100 returns good enough."""
    ended = np.asarray(info["returned_episode"]).astype(bool)  # [updates, steps, lanes]
    returns = np.asarray(info["returned_episode_returns"])[ended]
    sums = np.concatenate([[0.0], np.cumsum(returns, dtype=float)])
    episodes = np.cumsum(ended.sum((1, 2)))  # by the end of each update
    means = (sums[episodes] - sums[np.maximum(episodes - WINDOW, 0)]) / WINDOW
    enough = (episodes >= WINDOW) & (means >= score)
    return int(enough.argmax()) + 1 if enough.any() else None


def purejaxrl(
    path: str, budget: int, score: float, keys: Any, many: bool, compiling: Spent, training: Spent
) -> tuple[list[Any], float]:
    """Env steps at which each seed was solved, and the share of the run that came after."""
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = types.ModuleType(name)  # imported there, and not used on CartPole
    sys.modules["brax"].envs = sys.modules["brax.envs"]
    training_wrappers = sys.modules["brax.envs.wrappers.training"]
    training_wrappers.EpisodeWrapper = training_wrappers.AutoResetWrapper = object
    sys.path.insert(0, f"{path}/purejaxrl")
    from ppo import make_train

    config = {**PUREJAXRL, "TOTAL_TIMESTEPS": budget}
    with compiling.counting():
        train = compiled(make_train(config), keys, many)
    with training.counting():
        info = jax.block_until_ready(train(keys))["metrics"]
    each = [jax.tree.map(lambda x, i=i: x[i], info) for i in range(len(keys))] if many else [info]
    updates = [first_solved(seed, score) for seed in each]
    last = max(update or config["NUM_UPDATES"] for update in updates)
    batch = config["NUM_ENVS"] * config["NUM_STEPS"]
    return [update and update * batch for update in updates], 1 - last / config["NUM_UPDATES"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=["rejax", "purejaxrl"])
    parser.add_argument("score", type=float)
    parser.add_argument("--seeds", default="100")
    parser.add_argument("--purejaxrl", default="", help="a checkout of luchris429/purejaxrl")
    text = "env steps of PureJaxRL's run, over which its learning rate falls"
    parser.add_argument("--budget", type=int, default=MOST, help=text)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    many = len(seeds) > 1
    keys = jax.vmap(jax.random.PRNGKey)(jnp.array(seeds)) if many else jax.random.PRNGKey(seeds[0])
    compiling, training, share = Spent(), Spent(), 0.0
    if arguments.peer == "rejax":
        steps = rejax(arguments.score, keys, many, compiling, training)
    else:
        where = arguments.purejaxrl, arguments.budget
        steps, share = purejaxrl(*where, arguments.score, keys, many, compiling, training)
    cpu, wall = training.cpu * (1 - share), training.wall * (1 - share)
    told = {"steps": steps, "training": cpu, "training_wall": wall}
    told |= {"compiling": compiling.cpu, "compiling_wall": compiling.wall}
    unused = {"unused": training.cpu - cpu, "unused_wall": training.wall - wall}
    print(json.dumps({**told, **unused}))


if __name__ == "__main__":
    main()
