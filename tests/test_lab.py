"""Estimators at a frozen policy: data, moments, biases that are and that are not.

Chance of failing by luck: see ``problems``; each |z| below is of one mean, as there.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from problems import Z_BOUND, seeded
from torch import nn

from rlgrad.bootstrap import counted
from rlgrad.errors import UsageError
from rlgrad.estimators import ESTIMATORS, noise
from rlgrad.estimators.base import score
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.relax import Relax
from rlgrad.lab import judging, sampling
from rlgrad.lab.data import prepared
from rlgrad.lab.entry import variance
from rlgrad.lab.fitting import fit_critic
from rlgrad.lab.freeze import fresh
from rlgrad.lab.members import BASELINE, members, refusal
from rlgrad.lab.moments import LARGEST, LUCK, Gatherer, Moments, bias_of, found_from, student
from rlgrad.lab.sampling import gather, split

SMALL = {"states": 2048, "fit_states": 2048, "split_states": 0, "critic_steps": 20}
CARTPOLE, BOTH = "CartPole-v1", "rlgrad/BothProbe-v0"
UNTRAINED = "relax,rebar,learned,all-action-control"


class Fixed(nn.Module):
    """A control variate that nobody trains."""

    def forward(self, z, context):
        return 4 * (z.softmax(-1) * torch.arange(z.shape[-1]).cos()).sum((-2, -1))


class Right(Relax):
    """RELAX with that control variate."""

    def __init__(self, *shape):
        super().__init__(*shape, control=Fixed(), coupling="independent")


class Broken(Right):
    """The same without its term -dc(z~): the second of the mistakes found in public code."""

    def gradient(self, draw, value, *, context=None, f=None):
        logits = draw.logits.detach()
        tilde = noise.relaxed_given_action(logits, draw.action, draw.second)
        c, _ = self._slope(tilde, context)
        _, slope = self._slope(noise.relaxed(logits, draw.gumbel), context)
        back = slope - logits.softmax(-1) * slope.sum(-1, keepdim=True)
        return (value - c)[..., None, None] * score(draw) + back


def rows_of(table):
    return {row.label: row for row in table.rows}


@pytest.fixture(autouse=True)
def _short_spread(monkeypatch):
    # Lanes start within 64 steps of a reset: the environments here forget sooner.
    monkeypatch.setattr(sampling, "LONGEST", 64)


# -------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce"])
def test_the_mean_of_estimates_is_what_an_update_ascends(agent):
    frozen, _ = fresh(CARTPOLE, agent, seed=1000)
    sample = gather(frozen, 1500, seed=3)
    data = prepared(frozen, sample, 4)
    reinforce = ESTIMATORS["reinforce"](*frozen.learner.shape)
    mean = (data.pulled(data.gradient(reinforce)) / data.mean_rows).mean(0)
    given = []
    frozen.learner.policy_adam.step = lambda _, gradient, __: given.append(gradient)
    second = sample.rollout.gumbel
    frozen.learner.update(sample.rollout, second, torch.zeros(1, 1), 1)
    torch.testing.assert_close(mean, -given[0][0], rtol=1e-4, atol=1e-7)
    assert float(mean.norm()) > 1e-4


def test_columns_of_one_batch_are_of_different_lanes():
    frozen, _ = fresh(CARTPOLE, seed=1000)
    sample = gather(frozen, 4096, seed=3)
    N, T = frozen.config.num_envs, frozen.config.num_steps
    assert sample.rollout.valid.shape[1] == T
    assert bool(sample.rollout.valid.all())
    for batch in sample.lane.split(N):
        assert len(set(batch.tolist())) == len(batch) == N
    assert sum(sample.shares) == pytest.approx(1.0)
    part, held_out = split(sample, 0.25)
    assert part.lanes + held_out.lanes == sample.lanes
    assert int(held_out.lane.min()) == int(part.lane.min()) == 0


def test_a_lane_goes_on_where_its_last_rollout_ended():
    frozen, _ = fresh(CARTPOLE, seed=1000)
    sample = gather(frozen, 20_000, seed=3)
    again = (sample.lane == 0).nonzero().squeeze(1)
    assert len(again) == 2
    first, second = again.tolist()
    rollout = sample.rollout
    torch.testing.assert_close(rollout.last[0, first], rollout.observation[0, 0, second])


def test_whole_episodes_are_whole():
    frozen, _ = fresh(CARTPOLE, "reinforce", seed=1000)
    rollout = gather(frozen, 2000, seed=3).rollout
    length = rollout.valid.sum(1)[0]
    ends = (rollout.terminated & rollout.valid).sum(1)[0]
    assert bool((ends == 1).all())  # the initial policy never reaches the time limit
    prefix = torch.arange(rollout.valid.shape[1]).unsqueeze(1) < length
    assert torch.equal(rollout.valid[0], prefix)
    assert int(length.sum()) >= 2000
    known = gather(frozen, 2000, seed=4, mean_length=20.0)
    assert known.lanes == -(-100 // frozen.config.num_envs) * frozen.config.num_envs


def test_a_fresh_critic_explains_returns_and_leaves_the_policy_alone():
    frozen, _ = fresh(CARTPOLE, seed=1000)
    sample = gather(frozen, 8192, seed=3)
    before = frozen.learner.policy.flat.clone()
    credit = prepared(frozen, sample, 4).credit.square().mean()
    fit_critic(frozen, sample, 5)
    torch.testing.assert_close(before, frozen.learner.policy.flat.clone(), rtol=0, atol=0)
    new = gather(frozen, 8192, seed=6)
    assert prepared(frozen, new, 4).credit.square().mean() < 0.5 * credit


# ----------------------------------------------------------------------------------- moments


def test_moments_are_those_of_numpy():
    policy, g = SeedMLP(3, 2, (4,), 1), seeded(0)
    P, U, each = policy.flat.shape[1], 12, 5
    numbers = 1.0 + torch.randn(U, each, P, generator=g)
    numbers[..., sum(policy.sizes[:-1]) :] = 0.0  # padding
    gathered = Gatherer(U, policy, 4)
    for block in range(each):
        gathered.add(numbers[:, block], torch.arange(U))
    found, ones = Moments.of(gathered), np.ones((1, U))
    mean = numbers.double().mean(1)
    pairs = [float(mean[i] @ mean[j]) for i in range(U) for j in range(U) if i != j]
    signal = float(np.mean(pairs))
    assert found.signal(ones).sum() == pytest.approx(signal)
    square = float(numbers.double().square().sum(-1).mean())
    assert found.variance(ones).sum() == pytest.approx(square - signal)
    error = math.sqrt(float(mean.var(0).sum()) / U)
    assert found.error() == pytest.approx(error)
    assert found.variance(ones).shape == (1, 2)  # layers
    batches = numbers.permute(1, 0, 2).reshape(-1, 4, P).mean(1)  # in the order they came in
    directions = (batches / batches.norm(dim=1, keepdim=True)).double().sum(0)
    torch.testing.assert_close(gathered.directions, directions, rtol=1e-5, atol=1e-5)


def test_resampled_pairs_of_the_same_lane_do_not_count():
    # Of pure noise, |E g|^2 is 0; a lane drawn twice must not be paired with itself.
    policy = SeedMLP(3, 2, (4,), 1)
    gathered = Gatherer(64, policy, 4)
    gathered.add(torch.randn(64, policy.flat.shape[1], generator=seeded(1)), torch.arange(64))
    found = Moments.of(gathered).signal(counted(64, 400, 0)).sum(1)
    size = float(gathered.square.sum()) / 64
    assert abs(found[1:].mean()) < 0.1 * size
    assert abs(found[0]) < 0.1 * size


@pytest.mark.parametrize("rank", [1, 3, 500])
def test_no_bias_is_found_where_there_is_none(rank):
    # z is the mean of two t statistics of 31 degrees of freedom, here of 300 independent data sets.
    g, P, U = seeded(2), 500, 64
    basis = torch.randn(rank, P, generator=g)
    z = [bias_of(torch.randn(U, rank, generator=g) @ basis, 1.0).z for _ in range(300)]
    assert max(map(abs, z)) < Z_BOUND
    assert np.std(z) < 1.3  # not more spread than a t statistic
    assert abs(np.mean(z)) < Z_BOUND / math.sqrt(300)


def test_a_bias_is_found_and_its_norm_is_right():
    g, P, U = seeded(3), 500, 256
    bias = torch.randn(P, generator=g)
    noise = 3 * torch.randn(U, P, generator=g)
    found = bias_of(noise + bias, 1.0)
    assert found.z > 2 * Z_BOUND
    assert found.norm == pytest.approx(float(bias.norm()), rel=0.1)


def test_differences_of_rounding_are_none():
    found = bias_of(1e-7 * torch.ones(64, 10), 1.0)
    assert (found.norm, found.z) == (0.0, 0.0)


def test_a_bias_without_noise_is_large_and_finite():
    same = torch.ones(32, 10)
    assert bias_of(same, 1.0).z == LARGEST
    assert bias_of(same + 1e-7 * torch.randn(32, 10, generator=seeded(0)), 1.0).z == LARGEST


@pytest.mark.parametrize(
    ("freedom", "chance", "t"),
    [(2, 0.01, 0.98 / math.sqrt(2 * 0.01 * 0.99)), (15, 0.0005, 4.0728), (10**6, 0.025, 1.95997)],
)
def test_quantiles_of_student(freedom, chance, t):
    # At 2 degrees a closed form, (1 - 2 p) / sqrt(2 p (1 - p)); else from tables.
    assert student(freedom, chance) == pytest.approx(t, rel=1e-4)


def test_few_lanes_take_a_larger_z():
    # P(T > t) at 3 degrees: 1/2 - (atan(x) + x / (1 + x^2)) / pi with x = t / sqrt(3).
    x = found_from(8) / math.sqrt(3)
    chance = 0.5 - (math.atan(x) + x / (1 + x * x)) / math.pi
    assert 2 * chance == pytest.approx(LUCK, rel=1e-3)
    assert found_from(8) > found_from(32) > found_from(512) > 4.9


# ------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def untrained():
    return variance(CARTPOLE, UNTRAINED, seed=1000, train_steps=0, **SMALL)


def test_untrained_control_variates_equal_the_baseline(untrained):
    rows = rows_of(untrained)
    assert len(rows) == 8
    for label, row in rows.items():
        assert row.trained is (None if label == BASELINE else False)
        assert row.ratio.value == pytest.approx(1.0, abs=1e-5)
        assert row.ratio.low == pytest.approx(row.ratio.high, abs=1e-5)
        assert row.cosine == pytest.approx(rows[BASELINE].cosine, abs=1e-5)
        assert (row.bias, row.z) == ((None, None) if label == BASELINE else (0.0, 0.0))


def test_layers_add_up_and_costs_are_products(untrained):
    assert untrained.layer_names == ("4 -> 32", "32 -> 32", "32 -> 2")
    base = untrained.baseline
    for row in untrained.rows:
        assert sum(x.value for x in row.layers) == pytest.approx(row.variance.value)
        assert row.variance.low <= row.variance.value <= row.variance.high
        expected = row.ratio.value * row.microseconds / base.microseconds
        assert row.cost == pytest.approx(expected)
        snr = untrained.reference.square / row.variance.value
        assert row.signal_to_noise == pytest.approx(snr)


def test_the_same_seed_gives_the_same_numbers():
    found = []
    for env_seed in (0, 0, 1):
        table = variance(
            BOTH, "gumbel-rao,relax", seed=1000, env_seed=env_seed, train_steps=5, **SMALL
        )
        found.append({label: (r.bias, r.variance) for label, r in rows_of(table).items()})
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.fixture
def _mistaken(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "broken", Broken)
    monkeypatch.setitem(ESTIMATORS, "right", Right)


@pytest.mark.usefixtures("_mistaken")
def test_only_what_is_biased_is_found_biased_against_the_exact_gradient():
    # The broken one's noise is large beside its bias: from a quarter of the states z is about 4.5.
    for names, states in (
        ("constant,relax-linear,all-action-control,straight-through", 32_768),
        ("right,broken", 262_144),
    ):
        given = {**SMALL, "states": states, "train_steps": 20}
        table = variance(BOTH, names, seed=1000, signal="n-step", **given)
        assert table.reference.kind == "exact"
        judged_by_z(table)


@pytest.mark.usefixtures("_mistaken")
def test_only_what_is_biased_is_found_biased_in_pairs():
    names = "constant,learned,muprop,relax-linear,reinmax,right,broken"
    given = {**SMALL, "states": 8192, "train_steps": 20}
    table = variance("rlgrad/DialProbe-v0", names, seed=1000, **given)
    assert table.reference.kind == "long run"
    judged_by_z(table)


def judged_by_z(table):
    for row in table.rows:
        if row.z is None:
            assert row.estimator == BASELINE
        elif row.estimator == "broken":
            assert row.found_biased
            assert row.z > Z_BOUND
        elif not row.unbiased:
            assert row.z > Z_BOUND, row.label
        else:
            assert abs(row.z) < Z_BOUND, row.label
    assert table.best.estimator not in ("broken", "straight-through", "reinmax")


def test_a_long_run_agrees_with_the_exact_gradient(monkeypatch):
    exact = variance(BOTH, "reinforce", seed=1000, **SMALL).reference
    monkeypatch.setattr(judging, "exact_gradient", lambda *given: None)
    run = variance(BOTH, "reinforce", seed=1000, **SMALL).reference
    assert (exact.kind, run.kind) == ("exact", "long run")
    gap = math.sqrt(run.square) - math.sqrt(exact.square)
    assert abs(gap) < Z_BOUND * run.error
    assert run.error < 0.05 * math.sqrt(exact.square)


def test_a_fit_that_only_harms_is_not_kept():
    frozen, _ = fresh(CARTPOLE, seed=1000)
    table = variance(CARTPOLE, "relax", seed=1000, train_steps=40, **SMALL)
    rows = rows_of(table)
    assert rows["relax trained"].ratio.value < 1.2
    assert frozen.learner.action_critic is None


@pytest.mark.slow
def test_a_control_variate_that_can_win_does():
    # 16 actions, one step: the action's share is nearly all, so an exact sum over a q wins much.
    given = {"states": 16_384, "fit_states": 16_384, "split_states": 200}
    table = variance("rlgrad/DialProbe-v0", "all-action-control,learned", seed=1000, **given)
    rows = rows_of(table)
    assert rows["all-action-control trained"].ratio.high < 0.2
    assert rows["learned trained"].ratio.value == pytest.approx(1.0, abs=0.05)
    assert table.split.action.share.value > 0.9
    assert table.best.estimator == "all-action-control"


@pytest.mark.parametrize("objective", ["environment", "batch"])
def test_every_objective_can_be_descended(objective):
    table = variance(BOTH, "relax", seed=1000, objective=objective, train_steps=10, **SMALL)
    assert table.objective == objective
    assert all(math.isfinite(row.variance.value) for row in table.rows)


def test_an_environment_that_gymnasium_steps_is_measured_too():
    table = variance(
        CARTPOLE, "relax-linear", agent="reinforce", seed=1000, signal="gae",
        env_kwargs={"sutton_barto_reward": True}, **{**SMALL, "states": 1024, "fit_states": 1024},
    )  # fmt: skip
    assert (table.signal, table.critic, table.lanes) == ("gae", "fitted", 32)


# ------------------------------------------------------------------------------------- members


def test_every_estimator_is_a_row_or_refused_with_a_reason():
    frozen, _ = fresh(CARTPOLE, seed=1000)
    found, refused = members(frozen, None)
    assert found[0].label == BASELINE
    assert {m.estimator for m in found} | {r.estimator for r in refused} == ESTIMATORS.keys()
    assert {r.estimator for r in refused} == {"exact", "leave-one-out", "disarm"}
    assert all("an environment gives" in r.reason for r in refused)
    labels = [member.label for member in found]
    assert len(labels) == len(set(labels))
    stages = {m.estimator: m.trained for m in found}
    assert stages["rebar"] is True
    assert {m.trained for m in found if m.estimator == "all-action"} == {True}
    relax = next(m for m in found if m.estimator == "relax")
    assert relax.options["hidden"] == (32, 32)  # of the card's section for the environment


def test_the_run_s_own_options_come_first():
    frozen, _ = fresh(CARTPOLE, "relax-network", seed=1000)
    config = dataclasses.replace(frozen.config, temperature=0.7)
    found, _ = members(dataclasses.replace(frozen, config=config), ["relax", "gumbel-softmax"])
    by_label = {member.label: member.options for member in found}
    assert by_label["relax trained"]["temperature"] == 0.7
    assert "temperature" not in by_label["gumbel-softmax"]


def test_what_cannot_be_served_alone_is_an_error():
    assert refusal("reinforce") is None
    with pytest.raises(UsageError, match="estimator disarm needs 2 values of f of a binary choice"):
        variance(CARTPOLE, "disarm")
