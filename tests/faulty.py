"""A small vector environment in every autoreset mode that can be broken in one way at a time."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

NEXT, SAME, OFF = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
EDGE, LIMIT = 2.0, 7


class Walk(VectorEnv):
    """Observes (position, time); an action moves by a noisy step; beyond an edge the walk is over.

    ``fault`` names what is broken; the empty string breaks nothing.
    """

    def __init__(self, mode=SAME, fault="", lanes=3, limit=LIMIT):
        self.metadata = {"autoreset_mode": mode}
        self.mode, self.fault, self.num_envs, self.max_episode_steps = mode, fault, lanes, limit
        low, high = np.array([-4, 0], np.float32), np.array([4, 20], np.float32)
        self.single_observation_space, self.single_action_space = Box(low, high), Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, lanes)
        self.action_space = batch_space(self.single_action_space, lanes)
        self.x = np.zeros((lanes, 2), np.float32)
        self.clock = np.zeros(lanes, int)
        self.ended = np.zeros(lanes, bool)
        self.buffer = np.zeros((lanes, 2), np.float32)
        self.calls = 0
        self.rngs = [np.random.default_rng(lane) for lane in range(lanes)]
        if fault == "action space not batched":
            self.action_space = self.single_action_space
        if fault == "observation space not batched":
            self.observation_space = self.single_observation_space
        if fault == "no autoreset mode":
            self.metadata = {}
        if " called " in fault:
            self.metadata = {"autoreset_mode": AutoresetMode[fault.rpartition(" ")[2]]}
        if fault == "no lanes":
            self.num_envs = 0
        if fault == "tensors elsewhere":
            self.device = torch.device("cuda")

    def broken(self, *faults):
        return self.fault in faults

    def start(self, lanes, clock=True):
        """New episodes in some lanes."""
        for lane in np.flatnonzero(lanes):
            self.x[lane] = self.rngs[lane].uniform(-0.1, 0.1), 0
        if clock:
            self.clock[lanes] = 0

    def seeded(self, seed):
        lanes = range(self.num_envs)
        if self.broken("seed ignored"):
            seed = int(np.random.SeedSequence().entropy) % 2**31
        if self.broken("seed is a constant"):
            seed = 5
        if self.broken("one stream for all lanes"):
            return [np.random.default_rng(seed) for _ in lanes]
        return [np.random.default_rng(seed + lane) for lane in lanes]

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if self.broken("mask ignored"):
            mask = np.ones(self.num_envs, bool)
        if seed is not None and not (self.broken("only the first seed counts") and self.calls):
            self.rngs = self.seeded(seed)
        self.detach()
        if self.broken("mask draws for all lanes") and not mask.all():
            for rng in self.rngs:
                rng.uniform()
        if not (self.broken("mask resets nothing") and options):
            self.start(mask)
        self.ended[mask] = False
        info = {"extra": np.arange(self.num_envs)}
        alone = self.broken("reset without infos")
        return self.observe() if alone else (self.observe(), info)

    def detach(self):
        """What was returned is never written again, though it is the state."""
        if self.broken("observation is read back"):
            self.x = self.x.copy()

    def observe(self):
        x = self.x.copy()
        if self.broken("observation is the state", "observation is read back"):
            return self.x
        if self.broken("observation in one buffer"):
            self.buffer[:] = x
            return self.buffer
        if self.broken("observation of another dtype"):
            return x.astype(np.float64)
        if self.broken("observation of another shape"):
            return x[:, :1]
        if self.broken("observation is a list"):
            return x.tolist()
        if self.broken("observation out of range") and self.calls == 20:
            x[1, 0] = 99
        if self.broken("observation is NaN") and self.calls == 20:
            x[1, 0] = np.nan
        return torch.as_tensor(x) if self.broken("tensors elsewhere") else x

    def move(self, action, lanes):
        """Dynamics of some lanes: (reward, terminated, truncated) of all."""
        for lane in np.flatnonzero(lanes):
            self.x[lane, 0] += self.rngs[lane].uniform(0, 1) * (2 * action[lane] - 1)
            self.x[lane, 1] += 1
        self.clock[lanes] += 1
        terminated = lanes & (abs(self.x[:, 0]) > EDGE)
        change = {"late limit": 1, "early limit": -1, "never truncated": 10**6}
        limit = self.max_episode_steps + change.get(self.fault, 0)
        truncated = lanes & (self.clock >= limit)
        if self.broken("limit as an end"):
            terminated, truncated = terminated | truncated, truncated & False
        if self.broken("truncated at once") and self.calls == 30:
            truncated[0] = lanes[0]
        return np.where(lanes, self.x[:, 1].astype(float), 0.0), terminated, truncated

    def step(self, actions):
        self.calls += 1
        action, every = np.asarray(actions), np.ones(self.num_envs, bool)
        resting = self.ended.copy() if self.mode is NEXT else ~every
        if self.broken("raises") and self.calls == 20:
            raise RuntimeError("the motor is stuck")
        if self.mode is OFF:
            assert not self.ended.any(), "not reset"
        if self.broken("action of another lane"):
            action = np.roll(action, 1)
        self.detach()
        before = self.x.copy()
        moving = every if self.broken("action in the reset row counts") else ~resting
        if not self.broken("never starts anew"):
            self.start(resting)
        if self.broken("reset row counts for the limit"):
            self.clock[resting] = 1
        reward, terminated, truncated = self.move(action, moving)
        if self.broken("action in the reset row counts"):
            terminated, truncated = terminated & ~resting, truncated & ~resting
            reward[resting] = 0.0
        if self.broken("reward in the reset row"):
            reward[resting] = 1.0
        done = terminated | truncated
        info, observation = {"extra": np.arange(self.num_envs)}, self.observe()
        self.ended = done.copy()
        if self.broken("last observation is one step old"):
            observation[done] = before[done]
        if self.broken("last reward lost"):
            reward[done] = 0.0
        if self.mode is SAME and done.any():
            info |= self.restart(done, observation)
            observation = self.observe()
        if self.mode is NEXT and self.broken("last observation lost") and done.any():
            self.start(done)
            observation = self.observe()
            # The row after starts from the same state, drawn already.
            self.rngs = [np.random.default_rng(rng.integers(2**30)) for rng in self.rngs]
            self.start = lambda lanes, clock=True: self.clock.__setitem__(lanes, 0)
        elif "start" in self.__dict__ and not done.any():
            del self.start
        return self.spoil(actions, observation, reward, terminated, truncated, info)

    def restart(self, done, observation):
        """New episodes in the same step; the infos about the last ones."""
        final = observation.copy()
        reset = not self.broken("no reset at all")
        self.start(done & reset, clock=not self.broken("clock not reset"))
        if self.broken("clock not reset at an end"):
            self.clock[done] = 3
        if self.broken("final is the new first"):
            final = self.observe()
        mask = done.copy()
        if self.broken("final in one buffer"):
            self.buffer[:] = final
            final = self.buffer
        if self.broken("final of another dtype"):
            final = final.astype(np.float64)
        if self.broken("final out of range"):
            final[:, 0] = 99
        if self.broken("final of no lane"):
            return {}
        if self.broken("mask of all lanes"):
            mask[:] = True
        return {"final_obs": final, "_final_obs": mask}

    def spoil(self, actions, observation, reward, terminated, truncated, info):
        """Faults in the form of what is returned."""
        if self.broken("final and first swapped") and "final_obs" in info:
            done = info["_final_obs"]
            observation[done], info["final_obs"][done] = (
                info["final_obs"][done], observation[done]
            )  # fmt: skip
        if self.broken("reward is a column"):
            reward = reward[:, None]
        if self.broken("reward is a list"):
            reward = reward.tolist()
        if self.broken("reward is NaN") and self.calls == 20:
            reward[2] = np.nan
        if self.broken("reward is text"):
            reward = reward.astype(str)
        if self.broken("flags are numbers"):
            terminated = terminated.astype(np.float32)
        if self.broken("one flag for all"):
            truncated = bool(truncated.any())
        if self.broken("writes into actions"):
            actions[:] = 0
        if self.broken("reward in one buffer"):
            self.buffer[:, 0] = reward
            reward = self.buffer[:, 0]
        if self.broken("info shares memory"):
            info["extra"] = observation[:, 1]
        if self.broken("flags share memory"):
            truncated = terminated
        if self.broken("info is a list"):
            info = [info]
        if self.broken("info of one lane"):
            info["extra"] = np.zeros(1)
        if self.broken("info is a number"):
            info["extra"] = 3.0
        if self.broken("info with a number as key"):
            info[7] = np.zeros(self.num_envs)
        if self.broken("info mask of numbers"):
            info["_extra"] = np.ones(self.num_envs)
        if self.broken("four parts"):
            return observation, reward, terminated | truncated, info
        return observation, reward, terminated, truncated, info


class SingleWalk(gymnasium.Env):
    """One lane of ``Walk``, as an ordinary environment; ``bias`` makes it another one."""

    def __init__(self, bias=0.0):
        self.walk, self.bias = Walk(OFF, lanes=1), bias
        self.observation_space = self.walk.single_observation_space
        self.action_space = self.walk.single_action_space

    def reset(self, *, seed=None, options=None):
        observation, _ = self.walk.reset(seed=seed)
        return observation[0], {}

    def step(self, action):
        x, reward, terminated, truncated, _ = self.walk.step(np.array([action]))
        return x[0], reward[0] + self.bias, bool(terminated[0]), bool(truncated[0]), {}


class NestedWalk(SingleWalk):
    """The same, observed as a Dict with a Tuple and a Discrete inside."""

    def __init__(self):
        super().__init__()
        place = self.observation_space
        self.observation_space = Dict({"where": Tuple([place, place]), "time": Discrete(20)})

    def nested(self, x):
        return {"where": (x, -x + np.array([0, 2 * x[1]], np.float32)), "time": np.int64(x[1])}

    def reset(self, *, seed=None, options=None):
        return self.nested(super().reset(seed=seed)[0]), {"note": 1.0}

    def step(self, action):
        x, *rest, _ = super().step(action)
        return self.nested(x), *rest, {"note": 2.0, "more": {"deep": np.ones(2)}}
