"""Normalised observations and rewards: the numbers, and that they stay with the run."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from kept_runs import same

import rlgrad
from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.evaluation import evaluate
from rlgrad.learner import Learner
from rlgrad.loading import load_learner
from rlgrad.normalise import CLIP, Normaliser, ReturnSpread
from rlgrad.rollout import Rollout

torch.set_num_threads(1)
S, T, N, GAMMA = 2, 9, 3, 0.9


class Large(gymnasium.Env):
    """Observations far from 0, rewards of 1000 a step; seven steps long, by termination."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,), np.float64), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def _seen(self):
        return np.array([1e4 + self.np_random.normal(), 1e-3 * self.np_random.normal()])

    def step(self, action):
        self.time += 1
        return self._seen(), 1000.0, self.time == 7, False, {}


if "normalise/Large-v0" not in gymnasium.registry:
    gymnasium.register("normalise/Large-v0", Large, max_episode_steps=30)
SMALL = {
    "num_envs": 4, "num_steps": 8, "hidden": (8,), "total_timesteps": 160, "quiet": True,
    "vec": "sync", "eval_episodes": 3,
}  # fmt: skip
BOTH = {"normalize_observations": "on", "normalize_rewards": True}


@pytest.fixture
def train(tmp_path):
    """Trains a small run in ``tmp_path``."""
    return lambda *names, **given: rlgrad.train(
        *names, **{**SMALL, **BOTH, "log_dir": str(tmp_path), **given}
    )


def state(run, seed):
    return load_learner(run, seed)[0].state_dict()


def rollouts(count, seed=0):
    """(reward, done, valid) of rollouts in a row; a row after an end is none in lane 0."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        reward = 5 * torch.randn(S, T, N, generator=g) + 2
        done = torch.rand(S, T, N, generator=g) < 0.2
        valid = torch.ones(S, T, N, dtype=torch.bool)
        valid[:, 1:, 0] = ~done[:, :-1, 0]
        done &= valid
        found.append((torch.where(valid, reward, torch.nan), done, valid))
    return found


def returns_so_far(rows, seed, whole):
    """G of every valid row, step by step."""
    found, total = [], np.zeros(N)
    for reward, done, valid in rows:
        total = np.zeros(N) if whole else total
        for t in range(T):
            for lane in range(N):
                if valid[seed, t, lane]:
                    total[lane] = GAMMA * total[lane] + float(reward[seed, t, lane])
                    found.append(total[lane])
                if done[seed, t, lane]:
                    total[lane] = 0.0
    return np.array(found)


@pytest.mark.parametrize("whole", [False, True])
def test_rewards_are_scaled_by_the_deviation_of_the_return_so_far(whole):
    """As VecNormalize has it, but for its first guess; and of each seed apart."""
    spread, rows = ReturnSpread(S, N, GAMMA), rollouts(4)
    assert spread.deviation().tolist() == [[1.0], [1.0]]
    assert bool(spread.bound().isinf().all())
    for each in rows:
        spread.update(*each, whole)
    for seed in range(S):
        expected = returns_so_far(rows, seed, whole)
        assert float(spread.count[seed]) == len(expected)
        assert float(spread.deviation()[seed]) == pytest.approx(expected.std(), rel=1e-9)
    assert spread.bound().tolist() == [[CLIP], [CLIP]]


def test_the_deviation_is_that_of_stable_baselines3():
    """Its VecNormalize on the same rewards, from a first guess that weighs 1e-4 of a step."""
    vec = pytest.importorskip("stable_baselines3.common.running_mean_std")
    rms, spread = vec.RunningMeanStd(shape=()), ReturnSpread(1, N, GAMMA)
    total = np.zeros(N)
    for reward, done, valid in rollouts(6, seed=3):
        reward, valid = torch.where(valid, reward, 0.0), valid | True
        spread.update(reward[:1], done[:1], valid[:1], False)
        for t in range(T):
            total = GAMMA * total + reward[0, t].double().numpy()
            rms.update(total)
            total[done[0, t].numpy()] = 0.0
    assert float(spread.deviation()) == pytest.approx(np.sqrt(rms.var + 1e-8), rel=1e-4)


def test_equal_returns_scale_nothing():
    """FrozenLake until its first success: a deviation of 0 would make the first reward huge."""
    spread = ReturnSpread(1, N, GAMMA)
    zero = torch.zeros(1, T, N)
    spread.update(zero, zero.bool(), ~zero.bool(), False)
    assert float(spread.deviation()) == 1.0


def test_moments_keep_their_digits_far_from_zero():
    """A million steps at 1e6 +- 1: float32 sums would have lost the deviation."""
    normaliser, g = Normaliser(1, 1), torch.Generator().manual_seed(0)
    x = 1e6 + torch.randn(1, 100_000, 10, 1, generator=g)
    for part in x.split(1000, 1):
        normaliser.update(part, torch.ones(part.shape[:3], dtype=torch.bool), [])
    assert float(normaliser.mean) == pytest.approx(float(x.double().mean()), abs=1e-6)
    assert float(normaliser.deviation) == pytest.approx(float(x.double().std()), rel=1e-4)


def lone(**changed):
    config = Config(
        hidden=(4,), num_envs=N, gamma=GAMMA, normalize_observations="on",
        **{"normalize_rewards": True, **changed},
    )  # fmt: skip
    return Learner(config, 2, (2,), [0])


def some_rollout(reward, truncated=None):
    x = 100 + 7 * torch.randn(1, T, N, 2, generator=torch.Generator().manual_seed(1))
    none = torch.zeros(1, T, N, dtype=torch.bool)
    action, gumbel = torch.zeros(1, T, N, 1, dtype=torch.int64), torch.zeros(1, T, N, 1, 2)
    cut = none if truncated is None else truncated
    return Rollout(x, x[:, 0], x.roll(1, 1), action, gumbel, reward, none, cut, ~none)


@torch.no_grad()
def test_rewards_are_clipped_at_ten_deviations_of_earlier_returns():
    learner = lone(signal="return-to-go")
    reward = torch.zeros(1, T, N)
    reward[0, 3, 0] = 1e6
    rollout = some_rollout(reward, torch.ones(1, T, N, dtype=torch.bool))  # each step an episode
    assert float(learner.credit(rollout, None)[0].max()) == 1e6
    for i in range(40):
        small = torch.full((1, T, N), float(i % 2))
        learner.spread.update(small, rollout.truncated, rollout.valid, True)
    learner.value_scale.copy_(learner.spread.deviation())
    assert float(learner.value_scale) == pytest.approx(0.5)
    for sign in (1.0, -1.0):
        credit = learner.credit(some_rollout(sign * reward, rollout.truncated), None)[0]
        assert float(credit[0, 3, 0]) == sign * CLIP
    learner.adapt(rollout, reward)
    assert float(learner.value_scale) == pytest.approx(float(learner.spread.deviation()))
    assert float(learner.value_scale) > 1e3


@torch.no_grad()
def test_a_truncated_episode_bootstraps_from_its_normalised_last_observation():
    learner = lone(signal="n-step", n_step=1)
    cut = torch.zeros(1, T, N, dtype=torch.bool)
    cut[0, 4, 1] = True
    rollout = some_rollout(torch.ones(1, T, N), cut)
    learner.normaliser.update(rollout.observation, rollout.valid, learner.networks())
    learner.critic.network.flat.normal_(generator=torch.Generator().manual_seed(2))
    every = torch.cat([rollout.observation, rollout.last.unsqueeze(1)], 1)
    credit, _ = learner.credit(rollout, learner.critic.network.blocks(learner.see(every)))
    raw, seen = rollout.final[0, 4, 1].double(), rollout.observation[0].double().flatten(0, 1)
    z = ((raw - seen.mean(0)) / seen.std(0, correction=0)).clamp(-CLIP, CLIP).float()
    own = learner.critic(learner.see(rollout.observation))[0, 4, 1]
    expected = 1.0 + GAMMA * learner.critic(z.view(1, 1, 2)).squeeze() - own
    assert float(credit[0, 4, 1]) == pytest.approx(float(expected), abs=1e-4)
    assert abs(float(learner.critic(z.view(1, 1, 2)))) > 0.1


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce-learned", "rebar"])
def test_a_seed_has_its_own_statistics_and_goes_on_with_them(train, agent):
    """Alone as in company, and after a resume, to the bit; returns are the environment's."""
    run = train("normalise/Large-v0", agent, seeds=[4, 9], anneal_steps=160)
    alone = train("normalise/Large-v0", agent, seeds=[9], anneal_steps=160)
    same(state(run, 9), state(alone, 9))
    assert not torch.equal(state(run, 4)["normaliser.mean"], state(run, 9)["normaliser.mean"])
    half = train("normalise/Large-v0", agent, seeds=[4, 9], total_timesteps=64, anneal_steps=160)
    again = rlgrad.resume(half, total_timesteps=160)
    for seed in (4, 9):
        same(state(run, seed), state(again, seed))
    (row, _) = run.result()["seeds"]
    assert row["mean_return"] == 7000.0
    assert row["evaluation"]["sampled"]["mean"] == 7000.0
    assert float(state(run, 9)["spread.mean"]) > 1000.0


def test_it_is_frozen_where_nothing_learns(train):
    """Evaluating and predicting change nothing; both see normalised observations."""
    learner = load_learner(train("normalise/Large-v0"))[0]
    before = {name: x.clone() for name, x in learner.state_dict().items()}
    assert abs(float(before["normaliser.mean"][0, 0]) - 1e4) < 1
    evaluate(learner, "normalise/Large-v0", 0, 2)
    x = torch.tensor([[[1e4 + 0.5, 1e-3], [1e4 - 2.0, 0.0]]])
    seen = (x - learner.normaliser.mean.float()) / learner.normaliser.deviation
    assert float(seen.detach().abs().max()) < 5
    right = learner.policy(seen).view(1, 2, 1, 2).detach()
    torch.testing.assert_close(torch.from_numpy(learner.actor()(x.numpy())), right)
    torch.testing.assert_close(learner.logits(x).detach(), right)
    same(before, learner.state_dict())


def test_what_is_normalised_can_be_chosen(train):
    """The card of CartPole-v1 has factors; integers have bounds."""
    chosen = {"vec": "auto", "normalize_rewards": False}
    assert "normaliser.mean" in state(train("CartPole-v1", **chosen), 0)
    usual = state(train("CartPole-v1", **{**chosen, "normalize_observations": "auto"}), 0)
    assert "normaliser.mean" not in usual
    raw = load_learner(train("normalise/Large-v0", normalize_observations="off"))[0]
    assert raw.see(torch.ones(1, 1, 2)).tolist() == [[[1.0, 1.0]]]
    with pytest.raises(UsageError, match="'auto', 'on', 'off'"):
        train("CartPole-v1", normalize_observations="yes")


@pytest.mark.parametrize("vec", ["async", "auto"])
def test_it_is_the_same_on_workers(train, vec):
    here = state(train("normalise/Large-v0"), 0)
    same(here, state(train("normalise/Large-v0", vec=vec), 0))


def test_a_checkpoint_of_before_is_read(train):
    """Statistics were float32 once: they are widened."""
    from rlgrad import store
    from rlgrad.preflight import fitting

    run = train("normalise/Large-v0")
    tensors, _ = store.load_checkpoint(run.checkpoints()[-1])
    old = tensors["normaliser.mean"].float()
    path = run.checkpoints()[-1]
    assert torch.equal(fitting(path, "mean", old, torch.float64, [1, 2]), old.double())
    with pytest.raises(UsageError, match="its card needs"):
        fitting(path, "mean", old.double(), torch.float32, [1, 2])
