"""Simulators against Gymnasium's own classes by injected states, and as vector environments.

Chance of failing by luck: |z| < 6.5, P = 8.0e-11 each, on fewer than 100 comparisons: below 1e-8
per run. Seeds are the literals shown; none was chosen by its outcome.
"""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rlgrad.simulators import SIMULATORS
from rlgrad.simulators.acrobot import SPIN_LIMITS, Acrobot
from rlgrad.simulators.base import TorchVectorEnv
from rlgrad.simulators.cartpole import ANGLE_LIMIT, X_LIMIT, CartPole
from rlgrad.simulators.mountaincar import GOAL, LEFT, RIGHT, SPEED, MountainCar
from rlgrad.streams import Purpose, Streams, derive

torch.set_num_threads(1)
Z_BOUND = 6.5
STEPS = 10_000
CASES = [(name, limit and 7) for name, (_, _, limit) in SIMULATORS.items()]  # None: no limit

# Of one step. Rounding: in float64 a handful of operations of relative error 1.1e-16 on numbers up
# to 20; in float32 (6e-8) velocities up to 4 are rounded by 1.2e-7 at the end alone.
both_precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 4e-15), (torch.float32, 1e-6)]
)


def injected_states(seed=4):
    """States all over the space, some of them already beyond the limits, and actions."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.tensor([2.6, 3.0, 0.25, 3.5], dtype=torch.float64)
    states = (2 * torch.rand(STEPS, 4, generator=g, dtype=torch.float64) - 1) * spread
    return states, torch.randint(2, (STEPS,), generator=g)


def gymnasium_steps(states, actions):
    """(next state, reward, terminated) of Gymnasium's class, each from an injected state."""
    env = CartPoleEnv()
    env.reset(seed=0)
    rows, rewards, ends = [], [], []
    for state, action in zip(states.numpy(), actions.tolist(), strict=True):
        env.state, env.steps_beyond_terminated = state, None
        _, reward, terminated, _, _ = env.step(action)
        rows.append(env.state)
        rewards.append(reward)
        ends.append(terminated)
    return torch.tensor(np.array(rows)), torch.tensor(rewards), torch.tensor(ends)


def at_a_limit(state, margin):
    """Whether a state is so close to a limit that rounding may decide on which side it is."""
    gaps = torch.stack([state[:, 0].abs() - X_LIMIT, state[:, 2].abs() - ANGLE_LIMIT])
    return (gaps.abs() < margin).any(0)


def play(env, seed, steps, action=None):
    """All tensors that an environment returns, by fixed actions per lane and step."""
    observation, _ = env.reset(seed=seed)
    out = [observation]
    for t in range(steps):
        lane_action = torch.full((env.num_envs,), t // 3 % 2) if action is None else action[t]
        x, reward, terminated, truncated, info = env.step(lane_action)
        out.extend([x, reward, terminated, truncated, info["final_obs"], info["_final_obs"]])
    return out


@both_precisions
def test_cartpole_is_gymnasiums_from_every_injected_state(dtype, tolerance):
    states, actions = injected_states()
    states = states.to(dtype)
    expected, expected_reward, expected_end = gymnasium_steps(states.double(), actions)
    env = CartPole(STEPS, dtype=dtype)
    env.reset(seed=1)
    env.state = states.clone()
    _, reward, terminated, truncated, info = env.step(actions)
    assert info["final_obs"].dtype == reward.dtype == dtype
    assert float((info["final_obs"].double() - expected).abs().max()) <= tolerance
    assert torch.equal(reward.double(), expected_reward.double())
    differ = terminated != expected_end
    assert not bool((differ & ~at_a_limit(expected, tolerance)).any())
    assert int(differ.sum()) <= 1
    assert 1000 < int(terminated.sum()) < 9000  # both outcomes are really tested
    assert not bool(truncated.any())


@both_precisions
def test_cartpole_is_gymnasiums_along_its_own_episodes(dtype, tolerance):
    """10,000 steps as they come in play: Gymnasium's state is injected before each."""
    lanes, g = 100, torch.Generator().manual_seed(5)
    references = [CartPoleEnv() for _ in range(lanes)]
    for i, reference in enumerate(references):
        reference.reset(seed=i)
    env = CartPole(lanes, dtype=dtype)
    env.reset(seed=1)
    worst, ends = 0.0, 0
    for _ in range(STEPS // lanes):
        env.state = torch.tensor(np.array([each.state for each in references])).to(dtype)
        for reference, state in zip(references, env.state.double().numpy(), strict=True):
            reference.state = state  # the same number in both precisions
        actions = torch.randint(2, (lanes,), generator=g)
        _, reward, terminated, _, info = env.step(actions)
        for i, reference in enumerate(references):
            _, expected_reward, end, _, _ = reference.step(int(actions[i]))
            after = torch.tensor(reference.state)
            worst = max(worst, float((info["final_obs"][i].double() - after).abs().max()))
            assert float(reward[i]) == expected_reward
            assert bool(terminated[i]) == end or bool(at_a_limit(after[None], tolerance))
            if end:
                reference.reset()
                ends += 1
    assert worst <= tolerance
    assert ends > 100


# Of one step: rounding of some hundred operations, on speeds up to 14 rad/s. (Towards the limits
# of the speeds a step of 0.2 s is itself so coarse that it multiplies rounding by thousands.)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 4e-14), (torch.float32, 2e-5)], ids=str
)
def test_acrobot_is_gymnasiums_from_every_injected_state(dtype, tolerance):
    g = torch.Generator().manual_seed(4)
    spread = torch.tensor([math.pi, math.pi, SPIN_LIMITS[0] / 2, SPIN_LIMITS[1] / 2]).double()
    states = ((2 * torch.rand(STEPS, 4, generator=g, dtype=torch.float64) - 1) * spread).to(dtype)
    actions = torch.randint(3, (STEPS,), generator=g)
    env = Acrobot(STEPS, dtype=dtype)
    env.reset(seed=1)
    env.state = states.clone()
    x, reward, terminated, _, info = env.step(actions)
    reference = AcrobotEnv()
    reference.reset(seed=0)
    ends = 0
    for i, action in enumerate(actions.tolist()):
        reference.state = states[i].double().numpy()
        _, expected_reward, end, _, _ = reference.step(action)
        after = reference.state
        height = -math.cos(after[0]) - math.cos(after[0] + after[1])
        near = abs(height - 1) < tolerance
        assert bool(terminated[i]) == end or near
        assert float(reward[i]) == expected_reward or near
        seen = [f(angle) for angle in after[:2] for f in (math.cos, math.sin)]
        expected = torch.tensor([*seen, *after[2:]], dtype=torch.float64)
        assert float((info["final_obs"][i].double() - expected).abs().max()) <= tolerance, i
        ends += end
    assert 1000 < ends < 9000
    assert reward.dtype == x.dtype == dtype


def mountain_states(dtype):
    """All over the space, and as many close to the wall and to the goal, and on the wall itself."""
    g = torch.Generator().manual_seed(4)
    uniform = torch.rand(STEPS, 2, generator=g, dtype=torch.float64)
    low, high = torch.tensor([LEFT, -SPEED]).double(), torch.tensor([RIGHT, SPEED]).double()
    states = low + uniform * (high - low)
    part = STEPS // 4
    states[:part, 0] = LEFT + 0.05 * uniform[:part, 0]
    states[part : 2 * part, 0] = GOAL - 0.05 + 0.1 * uniform[part : 2 * part, 0]
    states[:100, 0] = LEFT
    return states.to(dtype), torch.randint(3, (STEPS,), generator=g)


# Of one step: rounding of five operations on numbers up to 1.2 (3.6 within the cosine).
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 5e-16), (torch.float32, 3e-7)], ids=str
)
def test_mountain_car_is_gymnasiums_from_every_injected_state(dtype, tolerance):
    states, actions = mountain_states(dtype)
    env = MountainCar(STEPS, dtype=dtype)
    env.reset(seed=1)
    env.state = states.clone()
    x, reward, terminated, truncated, info = env.step(actions)
    assert reward.dtype == x.dtype == dtype
    assert bool((reward == -1).all())
    assert not bool(truncated.any())
    reference = MountainCarEnv()
    reference.reset(seed=0)
    ends = walls = 0
    for i, action in enumerate(actions.tolist()):
        reference.state = tuple(states[i].double().tolist())
        _, expected_reward, end, _, _ = reference.step(action)
        after = torch.tensor([float(each) for each in reference.state], dtype=torch.float64)
        near = min(abs(float(after[0]) - each) for each in (GOAL, LEFT)) < tolerance
        assert expected_reward == -1
        assert bool(terminated[i]) == end or near
        assert near or float((info["final_obs"][i].double() - after).abs().max()) <= tolerance, i
        ends += end
        walls += after.tolist() == [LEFT, 0.0]
    assert 500 < ends < 9000
    assert 500 < walls < 9000  # the wall is really met, from both sides of rounding


def test_mountain_car_is_gymnasiums_along_its_own_episodes():
    """From equal states the float64 simulator and Gymnasium's class stay together to the goal."""
    lanes, g = 20, torch.Generator().manual_seed(6)
    references = [MountainCarEnv() for _ in range(lanes)]
    env = MountainCar(lanes, dtype=torch.float64)
    env.reset(seed=1)
    for i, reference in enumerate(references):
        reference.reset(seed=i)
    env.state = torch.tensor(np.array([each.state for each in references]), dtype=torch.float64)
    ends, worst, alive = 0, 0.0, [True] * lanes
    for _ in range(200):
        # Along the velocity, which climbs the hill; now and then at random.
        follow = 1 + env.state[:, 1].sign().long()
        random = torch.rand(lanes, generator=g) < 0.1
        actions = torch.where(random, torch.randint(3, (lanes,), generator=g), follow)
        _, _, terminated, _, info = env.step(actions)
        for i, reference in enumerate(references):
            if alive[i]:
                _, _, end, _, _ = reference.step(int(actions[i]))
                after = torch.tensor([float(each) for each in reference.state]).double()
                worst = max(worst, float((info["final_obs"][i] - after).abs().max()))
                assert bool(terminated[i]) == end
                ends, alive[i] = ends + end, not end
    assert worst < 1e-6
    assert ends == lanes


@pytest.mark.parametrize("falls", [False, True])
def test_time_limit_is_at_exactly_500_steps_as_in_gymnasium(falls):
    env = gymnasium.make_vec("rlgrad/CartPole-v1", num_envs=3, device="cpu")
    reference = gymnasium.make("CartPole-v1")
    env.reset(seed=3)
    reference.reset(seed=3)
    for t in range(1, 501):
        env.state = torch.zeros(3, 4)
        reference.unwrapped.state = np.zeros(4)
        if t == 500 and falls:  # then both flags are true, and stay apart
            env.state[1, 2] = 3.0
            reference.unwrapped.state[2] = 3.0
        _, _, terminated, truncated, info = env.step(torch.tensor([0, 1, 0]))
        *_, end, cut, _ = reference.step(1)
        assert truncated.tolist() == [t == 500] * 3 == [cut] * 3
        assert terminated.tolist() == [False, t == 500 and falls, False]
        assert end == (t == 500 and falls)
        assert info["_final_obs"].tolist() == [t == 500] * 3
    _, _, _, truncated, _ = env.step(torch.tensor([0, 1, 0]))
    assert not bool(truncated.any())
    assert env.elapsed.tolist() == [1, 1, 1]


def test_lanes_have_clocks_of_their_own():
    env = CartPole(2, max_episode_steps=10)
    env.reset(seed=0)
    for t in range(1, 31):
        env.state = torch.tensor([[9.0 if t == 4 else 0.0, 0, 0, 0], [0.0] * 4])
        _, _, terminated, truncated, _ = env.step(torch.tensor([0, 0]))
        assert terminated.tolist() == [t == 4, False]
        assert truncated.tolist() == [t in (14, 24), t in (10, 20, 30)]


def test_initial_states_are_uniform_in_gymnasiums_range():
    x, _ = CartPole(1 << 12).reset(seed=11)
    later = CartPole(1 << 12)
    later.reset(seed=11)
    later.state[:] = 9.0  # every lane ends here, so every lane starts anew
    y, *_ = later.step(torch.zeros(1 << 12, dtype=torch.int64))
    for start in (x.double(), y.double()):
        n = start.shape[0]
        assert float(start.abs().max()) < 0.05
        assert float(start.abs().max()) > 0.049
        mean = start.mean(0) / (0.05 / math.sqrt(3 * n))
        square = ((start**2).mean(0) - 0.05**2 / 3) / (0.05**2 * math.sqrt(4 / 45 / n))
        correlation = torch.corrcoef(start.T).triu(1) * math.sqrt(n)
        lanes = (start[1:] * start[:-1]).mean(0) * 3 / 0.05**2 * math.sqrt(n - 1)
        for z in (mean, square, correlation, lanes):
            assert float(z.abs().max()) < Z_BOUND
    assert not torch.equal(x, y)


def test_autoreset_in_the_same_step():
    env = CartPole(4)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.reset(seed=2)
    env.state = torch.tensor([[0.0] * 4, [3.0, 0, 0, 0], [0.0] * 4, [0, 0, -1.0, 0]])
    before = env.state.clone()
    x, _, terminated, _, info = env.step(torch.tensor([1, 1, 0, 0]))
    assert terminated.tolist() == info["_final_obs"].tolist() == [False, True, False, True]
    expected, _, _ = env.dynamics(before, torch.tensor([1, 1, 0, 0]))
    assert torch.equal(info["final_obs"], expected)
    assert torch.equal(x[~terminated], expected[~terminated])
    assert bool((x[terminated].abs() < 0.05).all())  # the next episode's first observation
    assert torch.equal(x, env.state)
    y, *_ = env.step(torch.tensor([1, 1, 0, 0]))
    assert torch.equal(y, env.dynamics(x, torch.tensor([1, 1, 0, 0]))[0])


@pytest.mark.parametrize(("name", "limit"), CASES)
def test_returned_tensors_are_nobodys_but_the_callers(name, limit):
    make = {"num_envs": 5, "max_episode_steps": limit}
    clean = play(gymnasium.make_vec(name, **make), 3, 20)
    env = gymnasium.make_vec(name, **make)
    observation, _ = env.reset(seed=3)
    returned = [observation.clone()]
    observation.fill_(77)
    kept = []
    for t in range(20):
        x, reward, terminated, truncated, info = env.step(torch.full((5,), t // 3 % 2))
        now = [x, reward, terminated, truncated, info["final_obs"], info["_final_obs"]]
        returned.extend(each.clone() for each in now)
        for i, each in enumerate(now):  # one at a time: none may show through another
            others = [other.clone() for other in now[:i] + now[i + 1 :]]
            each.fill_(1 if each.dtype == torch.bool else 77)
            assert all(map(torch.equal, others, now[:i] + now[i + 1 :])), i
        kept.extend((each, each.clone()) for each in now)
    assert all(map(torch.equal, returned, clean))
    assert all(torch.equal(each, copy) for each, copy in kept)  # later steps wrote into none


@pytest.mark.parametrize("name", SIMULATORS)
def test_a_lanes_episodes_depend_on_its_seed_alone(name):
    """Bit for bit, in any company: the lane's place decides whether vector registers are used."""
    seeds, steps = [9, 40, 2**62, 7, 0, 5, 12], 150
    make = {"max_episode_steps": 40}
    many = play(gymnasium.make_vec(name, num_envs=7, **make), seeds, steps)
    for lanes in ([3], [3, 0], [6, 5, 4, 3, 2, 1, 0], [2, 3] * 4, list(range(7)) * 3):
        env = gymnasium.make_vec(name, num_envs=len(lanes), **make)
        few = play(env, [seeds[i] for i in lanes], steps)
        assert all(torch.equal(y, x[lanes]) for x, y in zip(many, few, strict=True))


def test_seeds_of_reset():
    one, again, other = (play(CartPole(3), seed, 99) for seed in (5, 5, 6))
    assert all(map(torch.equal, one, again))
    assert not torch.equal(one[0], other[0])
    lanes = [derive(5, Purpose.LANE_SEED, lane) for lane in range(3)]
    assert all(map(torch.equal, one, play(CartPole(3), lanes, 99)))
    assert len({tuple(row) for row in one[0].tolist()}) == 3
    with pytest.raises(ValueError, match="got 2 seeds for 3 lanes"):
        CartPole(3).reset(seed=[1, 2])


def test_reset_without_a_seed_goes_on_with_the_noise():
    first, second = CartPole(3), CartPole(3)
    for env in (first, second):
        env.reset(seed=5)
        for _ in range(3):
            env.step(torch.zeros(3, dtype=torch.int64))
    (x, _), (y, _), (z, _) = first.reset(), second.reset(), first.reset()
    assert torch.equal(x, y)
    assert not torch.equal(x, z)
    assert not torch.equal(x, CartPole(3).reset(seed=5)[0])
    assert first.elapsed.tolist() == [0, 0, 0]
    # Without any seed there is fresh entropy: 96 random bits agree with probability 1e-29.
    assert not torch.equal(CartPole(3).reset()[0], CartPole(3).reset()[0])


@pytest.mark.parametrize("name", SIMULATORS)
@pytest.mark.parametrize("numpy_on_cpu", [True, False])
def test_start_k_of_a_lane_takes_number_k_of_its_seed(name, numpy_on_cpu, monkeypatch):
    """Over several fillings of the table, by lanes that end at different times."""
    monkeypatch.setattr(TorchVectorEnv, "numpy_on_cpu", numpy_on_cpu)
    monkeypatch.setattr("rlgrad.simulators.starts.ROWS", 5)
    seeds = [5, 2**62, 9]
    env = gymnasium.make_vec(name, num_envs=3, max_episode_steps=3)
    seen, _ = env.reset(seed=seeds)
    counts = torch.zeros(3, dtype=torch.int64)
    for t in range(60):
        assert torch.equal(env.starts.used, counts + 1)
        for lane, seed in enumerate(seeds):
            if int(env.elapsed[lane]) == 0:
                k, count = int(counts[lane]), env.noise_per_reset
                numbers = Streams([seed]).uniform(Purpose.RESET, k, 1, count)[0]
                expected = env.initial(numbers)
                assert torch.equal(env.state[lane], expected[0])
                first = torch.as_tensor(env.observe(env.xp, env._native(expected)))
                assert torch.equal(seen[lane], first[0])
        if t % 7 == 2:  # the clocks of the lanes part
            env.restore(env.state.clone(), torch.tensor([0, 1, 2]) % (t % 3 + 1))
        seen, *_, info = env.step(torch.zeros(3, dtype=torch.int64))
        counts += info["_final_obs"]
    assert int(counts.min()) > 15
    if "Cart" in name or "Car" in name or "Acro" in name:
        assert len(set(counts.tolist())) > 1


@pytest.mark.parametrize("name", ["rlgrad/CartPole-v1", "rlgrad/DiscountProbe-v0"])
def test_starts_go_on_where_they_were(name):
    """A restored simulator starts the same episodes, however far its table had come."""
    make = {"num_envs": 3, "max_episode_steps": 4}
    env, other = (gymnasium.make_vec(name, **make) for _ in range(2))
    env.reset(seed=5)
    for _ in range(90):
        env.step(torch.zeros(3, dtype=torch.int64))
    other.reset(seed=5)
    other.restore(env.state.clone(), env.elapsed.clone())
    other.starts.used = env.starts.used
    for t in range(300):
        action = torch.full((3,), t // 3 % 2)
        (*found, info), (*expected, wanted) = other.step(action), env.step(action)
        assert all(map(torch.equal, found, expected))
        assert torch.equal(info["final_obs"], wanted["final_obs"])
    assert torch.equal(other.starts.used, env.starts.used)


@pytest.mark.parametrize("name", SIMULATORS)
def test_made_by_gymnasium(name):
    env = gymnasium.make_vec(name, num_envs=3, device="cpu")
    observation, info = env.reset(seed=0)
    assert env.spec.id == name
    assert info == {}
    assert observation.shape == env.observation_space.shape == (3, *observation.shape[1:])
    assert env.observation_space.contains(observation.numpy())
    assert env.action_space.contains(torch.zeros(3, dtype=torch.int64).numpy())
    x, reward, terminated, truncated, _ = env.step(np.array([0, 1, 0]))  # numpy is taken too
    assert (x.dtype, reward.dtype) == (torch.float32, torch.float32)
    assert (terminated.dtype, truncated.dtype) == (torch.bool, torch.bool)
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    env.close()
    single = gymnasium.make(name)
    assert single.observation_space == env.single_observation_space
    assert single.action_space == env.single_action_space
    if "Probe" in name:  # one lane of the batch, without its autoreset; the others are Gymnasium's
        check_env(single.unwrapped, skip_render_check=True)
        batch = gymnasium.make_vec(name, num_envs=1)
        single.reset(seed=8)
        batch.reset(seed=8)
        x, reward, terminated, truncated, _ = single.step(1)
        _, *expected, info = batch.step(torch.tensor([1]))
        assert (reward, terminated, truncated) == tuple(each.item() for each in expected)
        np.testing.assert_array_equal(x, info["final_obs"][0].numpy())
    single.close()


@pytest.mark.parametrize("name", SIMULATORS)
def test_a_restored_state_replays_bit_for_bit(name):
    """In other lanes of another batch, at other times; over truncations, up to episodes' ends."""
    limit, steps, pick = 40, 60, [6, 2, 2, 0]
    env = gymnasium.make_vec(name, num_envs=7, max_episode_steps=limit)
    env.reset(seed=3)
    actions = [torch.arange(7) * (t + 2) // 3 % 2 for t in range(steps)]
    kept, rows = [], []
    for action in actions:
        kept.append((env.state.clone(), env.elapsed.clone()))
        rows.append(env.step(action))
    other = gymnasium.make_vec(name, num_envs=len(pick), max_episode_steps=limit)
    other.reset(seed=9)
    ends = 0
    for start in (0, 7, 33):
        state, elapsed = (x[pick] for x in kept[start])
        observation = other.restore(state, elapsed)
        seen = torch.as_tensor(env.observe(env.xp, env._native(state)))
        assert torch.equal(observation, seen)
        alive = torch.ones(len(pick), dtype=torch.bool)
        for action, (_, reward, terminated, truncated, info) in zip(
            actions[start:], rows[start:], strict=True
        ):
            _, *found, final = other.step(action[pick])
            for x, y in zip(found, (reward, terminated, truncated), strict=True):
                assert torch.equal(x[alive], y[pick][alive])
            true_next = info["final_obs"][pick]
            assert torch.equal(final["final_obs"][alive], true_next[alive])
            alive = alive & ~info["_final_obs"][pick]
        ends += int((~alive).sum())
    assert ends == 3 * len(pick)


def test_refusals():
    with pytest.raises(ValueError, match="got num_envs 0; expected at least 1"):
        CartPole(0)
    with pytest.raises(ValueError, match="got render_mode 'human'"):
        CartPole(1, render_mode="human")
    with pytest.raises(RuntimeError, match=r"call reset\(seed=...\) first"):
        CartPole(1).step(torch.tensor([0]))
    with pytest.raises(RuntimeError, match="restore before reset"):
        CartPole(1).restore(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
    env = CartPole(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shapes \[2, 3\] and \[2\]; expected \[2, 4\], \[2\]"):
        env.restore(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SIMULATORS)
def test_cuda_steps_as_the_cpu_does(name):
    cpu, cuda = (gymnasium.make_vec(name, num_envs=64, device=d) for d in ("cpu", "cuda"))
    x, y = cpu.reset(seed=3)[0], cuda.reset(seed=3)[0]
    assert y.device.type == "cuda"
    torch.testing.assert_close(y.cpu(), x, rtol=0, atol=1e-8)
    for t in range(100):
        action = torch.full((64,), t // 3 % 2)
        cuda.state = cpu.state.to("cuda")  # cos and sin round otherwise there
        _, *expected, info = cpu.step(action)
        _, *got, cuda_info = cuda.step(action.to("cuda"))
        torch.testing.assert_close(cuda_info["final_obs"].cpu(), info["final_obs"])
        assert all(torch.equal(b.cpu(), a) for a, b in zip(expected, got, strict=True))
