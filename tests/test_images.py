"""Convolutional policies and critics: against torch's own layers, in company, and in training."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

import rlgrad
from rlgrad.config import Config
from rlgrad.errors import UsageError
from rlgrad.estimators import Draw, build
from rlgrad.estimators.convolution import NATURE, SMALL, Image, SeedConv, design_of, layers_of
from rlgrad.images import image_of
from rlgrad.learner import Learner
from rlgrad.make import make_gymnasium
from rlgrad.preflight import check_memory, observation_factors
from rlgrad.pullback import direction, parameter_gradients
from rlgrad.rollout import Episodes, Rollout, collect

torch.set_num_threads(1)
GRID = Image(3, 6, 7, True, 1.0)
SCREEN = Image(2, 40, 36, False, 1 / 255)
every_image = pytest.mark.parametrize("image", [GRID, SCREEN], ids=["grid", "screen"])
A, T, N = 3, 4, 3


def box(*shape, dtype=np.uint8):
    high = 255 if dtype is np.uint8 else 1
    return Box(0, high, shape, dtype)


SPACES = {
    "stacked frames": (box(4, 84, 84), "auto", Image(4, 84, 84, False, 1 / 255)),
    "colours last": (box(64, 48, 3), "auto", Image(3, 64, 48, True, 1 / 255)),
    "flags": (box(10, 10, 4, dtype=np.bool_), "auto", Image(4, 10, 10, True, 1.0)),
    "numbers": (box(4, 9, 8, dtype=np.float32), "auto", None),
    "numbers as asked": (box(4, 9, 8, dtype=np.float32), "cnn", Image(4, 9, 8, False, 1.0)),
    "as a perceptron": (box(4, 84, 84), "mlp", None),
    "memory": (box(128), "auto", None),
    "too small": (box(4, 4, 9), "auto", None),
    "four axes": (box(4, 84, 84, 3), "auto", None),
    "a number": (Discrete(5), "auto", None),
}


@pytest.mark.parametrize(("space", "network", "expected"), SPACES.values(), ids=SPACES)
def test_which_observations_are_images(space, network, expected):
    assert image_of(space, network) == expected


@pytest.mark.parametrize("space", [box(128), Discrete(5), box(4, 4, 9)])
def test_what_is_no_image_is_refused_where_convolutions_are_asked_for(space):
    with pytest.raises(UsageError, match=r"--network cnn, but .* use --network auto"):
        image_of(space, "cnn")


def test_factors_belong_to_perceptrons():
    assert observation_factors(box(2, 9, 9), Config(), is_image=True) is None
    for wrong in ({"observation_scale": (1.0,) * 162}, {"normalize_observations": "on"}):
        with pytest.raises(UsageError, match="--network mlp"):
            observation_factors(box(2, 9, 9), Config(**wrong), is_image=True)


def pixels(image, *batch, seed=0):
    """Flattened observations, as they are stored."""
    g = torch.Generator().manual_seed(seed)
    most = 2 if image.factor == 1 else 256
    count = image.channels * image.height * image.width
    return torch.randint(0, most, (*batch, count), generator=g, dtype=torch.uint8)


def textbook(network, s):
    """The same network of one seed from torch's own layers, with its parameters."""
    image, parts = network.image, []
    layers = [(b[s, 0].double(), w[s].double()) for b, w in network.layers(network.flat.detach())]
    channels = image.channels
    for (bias, weight), (out, kernel, stride) in zip(
        layers, network.design.convolutions, strict=False
    ):
        part = nn.Conv2d(channels, out, kernel, stride).double()
        part.weight.data = weight.T.reshape(out, channels, kernel, kernel).clone()
        part.bias.data, channels = bias, out
        parts += [part, nn.ReLU()]
    parts.append(nn.Flatten())
    for (bias, weight), out in zip(layers[-2:], (network.width, network.outputs), strict=True):
        part = nn.Linear(weight.shape[0], out).double()
        part.weight.data, part.bias.data = weight.T[:out].clone(), bias[:out]
        parts += [part, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def as_images(image, x):
    rows = x.double() * image.factor
    if image.channels_last:
        return rows.unflatten(-1, (image.height, image.width, image.channels)).movedim(-1, -3)
    return rows.unflatten(-1, (image.channels, image.height, image.width))


@every_image
def test_outputs_and_gradients_are_those_of_torchs_layers(image):
    network, x = SeedConv(image, A, 2), pixels(image, 2, 5)
    assert network.design is (NATURE if image is SCREEN else SMALL)
    gradient = torch.randn(2, 5, A, generator=torch.Generator().manual_seed(3))
    found = network.blocks(x).parameters(gradient)
    for s in range(2):
        plain = textbook(network, s)
        y = plain(as_images(image, x[s]))
        torch.testing.assert_close(network(x)[s].double(), y, rtol=1e-4, atol=1e-5)
        (y * gradient[s]).sum().backward()
        views = network.layers(found)
        linear = [each for each in plain if isinstance(each, (nn.Conv2d, nn.Linear))]
        for part, (bias, weight) in zip(linear, views, strict=True):
            used = len(part.bias)
            expected = part.weight.grad.reshape(used, -1).T.float()
            scale = float(expected.abs().max())
            torch.testing.assert_close(weight[s, :, :used], expected, rtol=1e-3, atol=1e-4 * scale)
            torch.testing.assert_close(
                bias[s, 0, :used], part.bias.grad.float(), rtol=1e-3, atol=1e-4 * scale
            )
            assert not bias[s, 0, used:].any()  # padding stays zero
            assert not weight[s, :, used:].any()


def test_sizes_are_those_of_the_papers():
    used, _ = layers_of(Image(4, 84, 84, False, 1 / 255), 6)
    assert used == [(256, 32), (512, 64), (576, 64), (3136, 512), (512, 6)]
    used, _ = layers_of(Image(4, 10, 10, True, 1.0), 3)
    assert used == [(36, 16), (1024, 128), (128, 3)]
    assert design_of(Image(1, 35, 90, False, 1.0)) is SMALL
    with pytest.raises(UsageError, match="fewer seeds"):
        check_memory(Config(), 28224, 6, 1 << 20, 1 << 16, Image(4, 84, 84, False, 1 / 255))


def test_rows_beyond_a_block_are_computed_again():
    network, x = SeedConv(GRID, A, 2), pixels(GRID, 2, 7)
    gradient = torch.randn(2, 7, A, generator=torch.Generator().manual_seed(3))
    gradient[:, 5:] = 0
    whole, split = network.blocks(x), network.blocks(x, live=5, block=2)
    torch.testing.assert_close(whole.output[:, :5], split.output[:, :5])
    torch.testing.assert_close(whole.hidden[:, :5], split.hidden[:, :5])
    assert not split.output[:, 5:].any()
    torch.testing.assert_close(whole.parameters(gradient), split.parameters(gradient))


def test_lanes_add_up_and_the_direction_is_their_own_gradients():
    """J J^T u of a lane: its product with u is the squared norm of the lane's gradient J^T u."""
    network, x = SeedConv(GRID, A, 2), pixels(GRID, 2, T, N)
    u = torch.randn(2, T, N, 1, A, generator=torch.Generator().manual_seed(3))
    lanes = parameter_gradients(network, x, u, lanes=True).view(2, N, -1)
    torch.testing.assert_close(lanes.sum(1), parameter_gradients(network, x, u, lanes=False))
    w = direction("environment", network, x, u)
    torch.testing.assert_close((w * u).sum((1, 3, 4)), (lanes * lanes).sum(-1), rtol=1e-3, atol=0)


def rollout_of(seeds, image=GRID):
    """A rollout whose rows of a seed depend on that seed alone."""

    def stacked(make):
        return torch.stack([make(torch.Generator().manual_seed(seed)) for seed in seeds])

    noise = stacked(lambda g: torch.empty(T, N, 1, A).exponential_(generator=g))
    ended = stacked(lambda g: torch.rand(T, N, generator=g) < 0.2)
    x = torch.stack([pixels(image, T + 1, N, seed=seed) for seed in seeds])
    return Rollout(
        x[:, :T], x[:, T], x[:, 1:], stacked(lambda g: torch.randint(0, A, (T, N, 1), generator=g)),
        -noise.log(), stacked(lambda g: torch.randn(T, N, generator=g)),
        ended, ~ended, torch.ones_like(ended),
    )  # fmt: skip


AGENTS = {
    "actor-critic": {"entropy_coef": 0.01, "max_grad_norm": 0.5},
    "n-step": {"signal": "n-step", "reward_clip": 1.0},
    "learned": {"signal": "return-to-go", "estimator": "learned"},
    "relax-linear": {"estimator": "relax-linear"},
    "relax": {"estimator": "relax", "objective": "environment"},
    "rebar": {"estimator": "rebar", "action_critic": True, "thinning": 2},
    "all-action-control": {"estimator": "all-action-control"},
}


@pytest.mark.parametrize("chosen", AGENTS.values(), ids=AGENTS)
def test_a_seed_gets_the_same_bits_in_company(chosen):
    """Estimators see the last hidden layer, so this runs all of them on images, too."""
    config, states = Config(**{"hidden": (8,), **chosen}), []
    for seeds in ([7], [3, 7, 11]):
        learner = Learner(config, 126, [A], seeds, image=GRID)
        second = torch.stack(
            [torch.empty(T, N, 1, A).exponential_(generator=torch.Generator().manual_seed(seed))
             for seed in seeds]
        )  # fmt: skip
        before = learner.policy.flat.clone()
        for _ in range(3):
            numbers = learner.update(rollout_of(seeds), second, torch.ones(len(seeds), 1), 2, True)
        row = seeds.index(7)
        state = {name: x[row] for name, x in learner.state_dict().items()}
        states.append(state | {tag: x[row] for tag, x in numbers.items()})
        assert not torch.equal(before, learner.policy.flat)
        assert all(bool(x.isfinite().all()) for x in learner.state_dict().values())
    alone, among = states
    different = [name for name, x in alone.items() if not torch.equal(x, among[name])]
    assert [name for name in different if not alone[name].isnan().all()] == []


def test_rewards_are_cut_for_learning_alone():
    cut, plain = (Learner(Config(reward_clip=c), 126, [A], [0], image=GRID) for c in (0.5, 0.0))
    rollout = rollout_of([0])
    seen = torch.cat([rollout.observation, rollout.last.unsqueeze(1)], 1)
    halves = rollout._replace(reward=rollout.reward.clamp(-0.5, 0.5))
    credit, expected = (
        each.credit(given, each.critic.network.blocks(seen))[0]
        for each, given in ((cut, rollout), (plain, halves))
    )
    assert torch.equal(credit, expected)
    episodes = Episodes(1, N)
    episodes.add(rollout, whole=False)  # what is reported
    assert float(episodes.carry.sum() + sum(x for x, _ in episodes.recent[0])) == pytest.approx(
        float(rollout.reward.sum()), abs=1e-5
    )


def test_a_context_with_too_many_features_is_projected():
    estimator = build("relax-linear", 1, 6, 512, 2)
    draw = Draw(*torch.randn(3, 2, 9, 1, 6).exp(), torch.zeros(2, 9, 1, dtype=torch.int64))
    context = torch.randn(2, 9, 512)
    value = context[..., 0] + 3
    before = estimator.gradient(draw, value, context=context)
    for _ in range(3):  # how much of a fit is used shows on later draws
        estimator.observe(draw, value, context=context)
    after = estimator.gradient(draw, value, context=context)
    assert after.isfinite().all()
    assert not torch.equal(before, after)
    assert (
        build("relax-linear", 1, 6, 64).solver.weights.shape[1:]
        == (estimator.solver.weights.shape[1:])
    )
    assert build("relax-linear", 10, 6, 512).solver.columns < 700


class Side(gymnasium.Env):
    """A bright column on one side; the action that names the side earns 1. Episodes of 4 steps."""

    observation_space = box(6, 7, 1)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._look(), {}

    def _look(self):
        self.side = int(self.np_random.integers(2))
        x = np.zeros((6, 7, 1), dtype=np.uint8)
        x[:, 1 if self.side == 0 else 5] = 255
        return x

    def step(self, action):
        reward, self.time = float(action == self.side), self.time + 1
        return self._look(), reward, self.time == 4, False, {}


@pytest.fixture
def side():
    gymnasium.register("Side-v0", entry_point=Side, max_episode_steps=5)
    yield "Side-v0"
    gymnasium.registry.pop("Side-v0")


def test_rollouts_keep_bytes(side):
    from rlgrad.lanes import Lanes

    lanes = Lanes(make_gymnasium(side, 4))
    gumbel = torch.zeros(2, 3, 2, 1, 2)
    rollout, _ = collect(
        lanes, lambda x: np.zeros((*x.shape[:2], 1, 2)), lanes.reset([0] * 4), gumbel
    )
    assert rollout.observation.dtype == rollout.last.dtype == torch.uint8
    assert set(rollout.observation.unique().tolist()) == {0, 255}
    lanes.close()


def test_an_agent_learns_from_pixels_and_acts_when_loaded(side, tmp_path):
    run = rlgrad.train(
        side, "actor-critic", total_timesteps=2048, num_envs=8, num_steps=8, seeds=[1000],
        learning_rate=2e-3, critic_steps=1, eval_episodes=20, log_dir=str(tmp_path), quiet=True,
    )  # fmt: skip
    (seed,) = run.result()["seeds"]
    assert seed["evaluation"]["argmax"]["mean"] > 3.5  # of 4; chance gives 2
    agent = rlgrad.load(run.path)
    seen = Side().reset(seed=0)[0]
    assert agent.action_probability(seen).shape == (1, 2)
    with pytest.raises(UsageError, match="perceptrons only"):
        rlgrad.variance(run=run.path)


def test_a_baseline_on_images_has_a_value_to_watch():
    from rlgrad.watching.values import _of_learner

    config = Config(signal="return-to-go", estimator="learned", hidden=(8,))
    learner = Learner(config, 126, [A], [0], image=GRID)
    value = _of_learner(learner)
    assert value(pixels(GRID).numpy().astype(np.float32)) == 0.0  # heads start at zero
    with torch.no_grad():
        learner.estimator.baseline.layers(learner.estimator.baseline.flat)[-1][0].fill_(0.5)
    assert value(pixels(GRID).numpy().astype(np.float32)) == pytest.approx(0.5)
