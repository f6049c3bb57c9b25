"""The update against autograd of textbook losses, and its parts against their definitions."""

from __future__ import annotations

import copy
import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from problems import double, relax_oracle
from test_returns import lanes as each_lane
from test_returns import naive_gae, naive_n_step, naive_return

from rlgrad.adam import SeedAdam
from rlgrad.config import Config
from rlgrad.diagnostics import gradient_noise
from rlgrad.errors import UsageError
from rlgrad.estimators import Draw, one_hot
from rlgrad.estimators.networks import SeedMLP
from rlgrad.estimators.score import Kind
from rlgrad.learner import Learner
from rlgrad.normalise import Normaliser
from rlgrad.preflight import estimator_options
from rlgrad.pullback import direction, parameter_gradients
from rlgrad.rollout import Rollout

torch.set_num_threads(1)
S, T, N, F, A = 2, 7, 3, 4, 3
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # everything below runs in float64 unless it says other
SCALE = [1.0, 0.5, 2.0, 1.0]
SIGNALS = {
    "gae": {"signal": "gae", "gae_lambda": 0.8},
    "n-step": {"signal": "n-step", "n_step": 3},
    "return-to-go": {"signal": "return-to-go"},
}
every_signal = pytest.mark.parametrize("signal", SIGNALS)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(scale=SCALE, **config):
    """A learner all of whose networks are far from their zero heads."""
    config = {"hidden": (8, 8), "value_scale": 5.0, "gamma": 0.9, **config}
    learner = Learner(Config(**config), F, [A], list(range(S)), scale).double()
    with torch.no_grad():
        for i, parameter in enumerate(learner.parameters()):
            parameter.add_(0.3 * randn(*parameter.shape, seed=50 + i))
    return learner


def make_rollout(learner, seed=1, truncated=True):
    """Episodes that end in every way, each followed by a row that is a mere reset."""
    g = torch.Generator().manual_seed(seed)
    died, cut = torch.zeros(2, S, T, N, dtype=torch.bool)
    died[0, 1, 0] = died[1, 4, 2] = died[1, T - 1, 1] = died[0, 3, 2] = True
    if truncated:
        cut[0, 2, 1] = cut[0, 3, 2] = cut[1, 3, 0] = cut[1, T - 1, 0] = True
    valid = torch.ones(S, T, N, dtype=torch.bool)
    valid[:, 1:] = ~(died | cut)[:, :-1]
    observation, last = randn(S, T, N, F, seed=seed), randn(S, N, F, seed=seed + 1)
    gumbel = -torch.empty(S, T, N, 1, A, dtype=torch.float64).exponential_(generator=g).log()
    action = (learner.logits(observation).detach() + gumbel).argmax(-1)
    final = torch.cat([observation[:, 1:], last.unsqueeze(1)], 1)
    final = torch.where((died | cut).unsqueeze(-1), randn(S, T, N, F, seed=seed + 2), final)
    reward = randn(S, T, N, seed=seed + 3) * 3
    final = final if truncated else None
    return Rollout(observation, last, final, action, gumbel, reward, died, cut, valid)


def second(seed=9):
    """Exp(1) noise ``[S, T, N, 1, A]``."""
    g = torch.Generator().manual_seed(seed)
    return torch.empty(S, T, N, 1, A, dtype=torch.float64).exponential_(generator=g)


def update(learner, rollout, *, share=1.0, critic_steps=1, measure=False):
    """One update; returns what every optimiser was given, and the numbers."""
    given = {}

    def watch(name, adam):
        step = adam.step

        def spy(parameter, gradient, step_size):
            given.setdefault(name, []).append(gradient.clone())
            step(parameter, gradient, step_size)

        adam.step = spy

    watch("policy", learner.policy_adam)
    if learner.critic is not None:
        watch("critic", learner.critic.adam)
    if learner.action_critic is not None:
        watch("action critic", learner.action_critic.adam)
    for adam in learner.estimator_adams:
        watch("estimator", adam)
    shares = torch.full((S, 1), share, dtype=torch.float64)
    numbers = learner.update(rollout, second(), shares, critic_steps, measure)
    for adam in learner.modules():
        adam.__dict__.pop("step", None)
    return given, numbers


def credit_by_hand(learner, rollout):
    """(credit, critic's target) in value scales, by loops over single lanes."""
    c, reward = learner.config, rollout.reward / learner.value_scale.view(S, 1, 1)
    credit = torch.empty_like(reward)
    if c.signal == "return-to-go":
        for at, (r, done) in each_lane(reward, rollout.terminated | rollout.truncated):
            credit[at[0], :, at[1]] = double(naive_return(r, done, c.gamma))
        return credit, credit
    with torch.no_grad():
        value = learner.critic(learner.see(rollout.observation))
        after = torch.cat([rollout.observation[:, 1:], rollout.last.unsqueeze(1)], 1)
        after = after if rollout.final is None else rollout.final
        following = learner.critic(learner.see(after))
    rows = reward, value, following, rollout.terminated, rollout.truncated
    for at, lane in each_lane(*rows):
        if c.signal == "gae":
            numbers = naive_gae(*lane, c.gamma, c.gae_lambda)
        else:
            numbers = naive_n_step(*lane, c.gamma, c.n_step)
        credit[at[0], :, at[1]] = double(numbers)
    return credit, credit + value


def mean_of_valid(x, rollout):
    """Summed over seeds, so that autograd gives every seed its own gradient."""
    return sum(x[s][rollout.valid[s]].mean() for s in range(S))


def policy_loss(learner, rollout, credit, entropy_coef=0.0):
    logits = learner.logits(rollout.observation)
    choice = torch.distributions.Categorical(logits=logits)
    log_p = choice.log_prob(rollout.action).squeeze(-1)
    loss = -mean_of_valid(log_p * credit, rollout)
    return loss - entropy_coef * mean_of_valid(choice.entropy().squeeze(-1), rollout)


@every_signal
@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_policy_gradient_is_autograd_of_the_textbook_loss(signal, truncated, entropy_coef):
    learner = make(**SIGNALS[signal], entropy_coef=entropy_coef)
    rollout = make_rollout(learner, truncated=truncated)
    credit, _ = credit_by_hand(learner, rollout)
    loss = policy_loss(learner, rollout, credit, entropy_coef)
    (expected,) = torch.autograd.grad(loss, learner.policy.flat)
    before = copy.deepcopy(learner.policy.flat.data)
    given, _ = update(learner, rollout)
    torch.testing.assert_close(given["policy"][0], expected, **EXACT)
    # Adam's first step is downhill by the full step size wherever there is a gradient.
    moved = learner.policy.flat.data - before
    clear = expected.abs() > 1e-4
    step = -learner.config.learning_rate * expected.sign()
    torch.testing.assert_close(moved[clear], step[clear], rtol=1e-3, atol=0)


@pytest.mark.parametrize("signal", ["gae", "n-step"])
@pytest.mark.parametrize("truncated", [True, False])
def test_critic_regresses_on_credit_plus_value(signal, truncated):
    learner = make(**SIGNALS[signal])
    rollout = make_rollout(learner, truncated=truncated)
    _, target = credit_by_hand(learner, rollout)
    given, _ = update(copy.deepcopy(learner), rollout, critic_steps=3)
    assert len(given["critic"]) == 3
    for gradient in given["critic"]:  # every step on the same targets, at the moved critic
        error = learner.critic(learner.see(rollout.observation)) - target
        loss = 0.5 * mean_of_valid(error**2, rollout)
        (expected,) = torch.autograd.grad(loss, learner.critic.network.flat)
        torch.testing.assert_close(gradient, expected, **EXACT)
        step = torch.full((S, 1), learner.config.critic_learning_rate, dtype=torch.float64)
        learner.critic.adam.step(learner.critic.network.flat, expected, step)


def test_the_critic_of_relaxed_actions_regresses_on_the_credit_of_the_action_taken():
    learner = make(signal="gae", estimator="rebar", action_critic=True)
    rollout = make_rollout(learner)
    credit, _ = credit_by_hand(learner, rollout)
    x = learner.see(rollout.observation)
    taken = torch.nn.functional.one_hot(rollout.action.squeeze(-1), A).double()
    given, _ = update(copy.deepcopy(learner), rollout, critic_steps=2)
    assert len(given["action critic"]) == 2
    for gradient in given["action critic"]:
        error = learner.action_critic(torch.cat([x, taken], -1)) - credit
        loss = 0.5 * mean_of_valid(error**2, rollout)
        (expected,) = torch.autograd.grad(loss, learner.action_critic.network.flat)
        torch.testing.assert_close(gradient, expected, **EXACT)
        step = torch.full((S, 1), learner.config.critic_learning_rate, dtype=torch.float64)
        learner.action_critic.adam.step(learner.action_critic.network.flat, expected, step)


def test_a_relaxed_agent_climbs_the_critic_of_relaxed_actions():
    learner = make(signal="gae", estimator="gumbel-softmax", action_critic=True, temperature=0.7)
    rollout = make_rollout(learner)
    x = learner.see(rollout.observation)
    relaxed = ((learner.logits(rollout.observation) + rollout.gumbel) / 0.7).softmax(-1)
    value = learner.action_critic(torch.cat([x, relaxed.squeeze(-2)], -1))
    (expected,) = torch.autograd.grad(-mean_of_valid(value, rollout), learner.policy.flat)
    given, _ = update(learner, rollout)
    torch.testing.assert_close(given["policy"][0], expected, **EXACT)


@pytest.mark.parametrize("name", ["rebar", "muprop", "gumbel-softmax", "straight-through"])
def test_an_estimator_that_differentiates_f_needs_a_critic_of_actions(name):
    with pytest.raises(UsageError, match=f"{name} needs a differentiable f, .* --action-critic"):
        make(signal="gae", estimator=name)


AGENTS = {
    "actor-critic": {"signal": "gae"},
    "learned": {"signal": "return-to-go", "estimator": "learned"},
    "constant": {"signal": "return-to-go", "estimator": "constant"},
    "relax": {"signal": "gae", "estimator": "relax"},
    "rebar": {"signal": "gae", "estimator": "rebar", "action_critic": True},
    "relax-batch": {"signal": "gae", "estimator": "relax", "objective": "batch"},
    "relax-n-step": {"signal": "n-step", "estimator": "relax", "objective": "environment"},
}
every_agent = pytest.mark.parametrize("agent", AGENTS)


def same(first, second):
    states = first.state_dict(), second.state_dict()
    return [key for key, x in states[0].items() if not torch.equal(x, states[1][key])]


@every_agent
@pytest.mark.parametrize("measured", [True, False], ids=["measured", "given"])
def test_rows_that_are_no_transitions_change_no_bit(agent, measured):
    options = {"scale": None, "value_scale": 0.0} if measured else {}
    first = make(**options, **AGENTS[agent], entropy_coef=0.01, max_grad_norm=0.1)
    other = copy.deepcopy(first)
    rollout = make_rollout(first)
    invalid = ~rollout.valid
    changed = {
        "observation": torch.where(invalid.unsqueeze(-1), 50.0, rollout.observation),
        "final": torch.where(invalid.unsqueeze(-1), -50.0, rollout.final),
        "reward": torch.where(invalid, 1e4, rollout.reward),
        "action": torch.where(invalid.unsqueeze(-1), 2, rollout.action),
        "gumbel": torch.where(invalid[..., None, None], 30.0, rollout.gumbel),
        "terminated": invalid & (rollout.reward > 0) | rollout.terminated,
    }
    for _ in range(2):  # the second update sees the statistics of the first
        _, numbers = update(first, rollout, critic_steps=2, measure=True)
        _, again = update(other, rollout._replace(**changed), critic_steps=2, measure=True)
        assert same(first, other) == []
        assert all(torch.equal(numbers[tag], again[tag]) for tag in numbers)
    wrong = rollout._replace(valid=rollout.valid | True)
    update(other, wrong)
    update(first, rollout)
    assert "policy.flat" in same(first, other)  # the mask is what makes the difference


@every_agent
def test_measuring_changes_no_bit(agent):
    plain = make(scale=None, value_scale=0.0, **AGENTS[agent])
    measured = copy.deepcopy(plain)
    for seed in range(3):
        rollout = make_rollout(plain, seed)
        assert update(plain, rollout, critic_steps=2)[1] == {}
        numbers = update(measured, rollout, critic_steps=2, measure=True)[1]
        assert numbers
        assert all(x.shape == (S,) for x in numbers.values())
        assert same(plain, measured) == []


def test_each_seeds_gradient_is_clipped_by_its_own_norm():
    plain = make(signal="gae")
    rollout = make_rollout(plain)
    rollout.reward[1] *= 1000
    gradient = update(copy.deepcopy(plain), rollout)[0]["policy"][0]
    norms = gradient.norm(dim=1)
    limit = float(norms[0]) * 3
    assert float(norms[1]) > limit
    clipped, numbers = update(make(signal="gae", max_grad_norm=limit), rollout, measure=True)
    torch.testing.assert_close(clipped["policy"][0][0], gradient[0], **EXACT)
    torch.testing.assert_close(clipped["policy"][0][1], gradient[1] * limit / norms[1], **EXACT)
    torch.testing.assert_close(numbers["gradient/norm"], norms, **EXACT)  # before clipping


def test_an_option_of_zero_reaches_the_estimator():
    # It is equal to False, which means unset where the option is a flag.
    assert estimator_options(Config(estimator="relax", temperature=0.0))["temperature"] == 0.0
    assert "centre" not in estimator_options(Config(estimator="learned"))


@pytest.mark.parametrize("agent", ["actor-critic", "learned", "relax"])
def test_measured_value_scale_is_the_root_mean_square_and_moves_no_function(agent):
    learner = make(value_scale=0.0, **AGENTS[agent])
    rollout = make_rollout(learner)
    assert learner.value_scale.tolist() == [[1.0]] * S
    _, target = credit_by_hand(learner, rollout)
    x = learner.see(rollout.observation)
    heads = [net for net in learner.networks() if net is not learner.policy]
    inputs = [torch.cat([x, x[..., : net.shapes[0][0] - F]], -1) for net in heads]
    before = [net(each).detach() for net, each in zip(heads, inputs, strict=True)]
    policy = learner.policy.flat.clone()
    update(learner, rollout, share=0.0, critic_steps=2)  # no step: only statistics move
    for s in range(S):
        expected = target[s][rollout.valid[s]].square().mean().sqrt()
        assert float(learner.value_scale[s]) == pytest.approx(float(expected), rel=1e-9)
    for net, each, old in zip(heads, inputs, before, strict=True):
        now = net(each) * learner.value_scale.view(S, 1, 1, 1)
        torch.testing.assert_close(now, old, **EXACT)
    assert torch.equal(learner.policy.flat, policy)
    # From here on it is as if that scale had been given.
    given = make(value_scale=1.0, **AGENTS[agent])
    given.load_state_dict(learner.state_dict(), strict=False)
    first, other = update(learner, rollout)[0], update(given, rollout)[0]
    assert all(torch.equal(first[key][0], other[key][0]) for key in first)


@pytest.mark.parametrize(
    "options",
    [
        *({"estimator": "constant", "constant": kind} for kind in get_args(Kind)),
        {"estimator": "learned", "centre": True, "normalise": True},
        {"estimator": "relax"},
        {"estimator": "learned", "fit": "variance", "per_logit": True},
        {"estimator": "all-action"},
        {"estimator": "all-action-control"},
    ],
    ids=str,
)
def test_baselines_follow_the_measured_scale(options):
    """As if the scale that is measured in the first update had been known before it.

    Else a running mean is too large by the factor of that change, for a hundred updates.
    """
    options = {"signal": "return-to-go", **options}
    measured = make(value_scale=0.0, **options)
    known = make(value_scale=1.0, **options)
    earlier, rollout = make_rollout(measured, 1), make_rollout(measured, 20)
    update(measured, earlier, share=0.0)
    scale = measured.value_scale
    assert float((scale - 1).abs().min()) > 0.5
    known.value_scale.copy_(scale)
    known.estimator.rescale(1 / scale)  # the same initial networks, in units of reward
    update(known, earlier, share=0.0)
    given = [update(each, rollout)[0]["policy"][0] for each in (measured, known)]
    torch.testing.assert_close(*given, **EXACT)


def attached(estimator, draw, credit, x):
    """u by its formula, attached to the estimator's parameters."""
    if hasattr(estimator, "coupling"):
        return relax_oracle(estimator.control, draw, credit, x, estimator.coupling)
    p, hot = draw.logits.detach().softmax(-1), one_hot(draw)
    if hasattr(estimator, "q"):
        q = estimator.q(x, credit)
        left = credit - (q * hot).sum((-2, -1))
        return left[..., None, None] * (hot - p) + p * q - p * (p * q).sum(-1, keepdim=True)
    v = estimator.predict(x, credit)
    return (credit[..., None, None] - (v if estimator.per_logit else v[..., None, None])) * (
        hot - p
    )


@pytest.mark.parametrize("objective", ["logits", "environment", "batch"])
@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "relax", "coupling": "coupled"},
        {"estimator": "relax", "coupling": "independent"},
        {"estimator": "learned", "fit": "variance"},
        {"estimator": "learned", "fit": "variance", "per_logit": True},
        {"estimator": "all-action-control"},
    ],
    ids=str,
)
def test_an_estimator_descends_its_objective(objective, options):
    """The gradient that its optimiser gets is autograd's of the squared norm, twice through u."""
    learner = make(signal="gae", objective=objective, **options)
    rollout = make_rollout(learner)
    credit, _ = credit_by_hand(learner, rollout)
    x = learner.see(rollout.observation)
    draw = Draw(learner.logits(rollout.observation), rollout.gumbel, second(), rollout.action)
    u = attached(learner.estimator, draw, credit, x)
    u = u * rollout.valid[..., None, None]
    expected = 0.0
    for s in range(S):
        if objective == "logits":
            square = (u[s] ** 2).sum()
        else:
            lanes = [u[s, :, n : n + 1] for n in range(N)] if objective == "environment" else [u[s]]
            jacobians = [jacobian(learner.policy, x, s, n) for n in range(N)]
            jacobians = jacobians if objective == "environment" else [torch.stack(jacobians, 1)]
            pulled = [
                torch.einsum("tnap,tnda->p", j if j.ndim == 4 else j.unsqueeze(1), each)
                for j, each in zip(jacobians, lanes, strict=True)
            ]
            square = sum((v**2).sum() for v in pulled)
        expected = expected + square / rollout.valid[s].sum()
    parameters = list(learner.estimator.parameters())
    oracle = torch.autograd.grad(expected, parameters)
    before = [parameter.clone() for parameter in parameters]
    given, _ = update(copy.deepcopy(learner), rollout, share=0.0)
    torch.testing.assert_close(given["estimator"], list(oracle), rtol=1e-8, atol=1e-11)
    assert float(oracle[0].abs().max()) > 1e-4
    update(learner, rollout)
    assert all(bool((a != b).any(1).all()) for a, b in zip(before, parameters, strict=True))


def jacobian(policy, x, s, n):
    """d logits / d parameters of one lane, ``[T, A, P]``, by autograd."""

    def logits(flat):
        every = torch.cat([policy.flat[:s].detach(), flat[None], policy.flat[s + 1 :].detach()])
        return policy(x, every)[s, :, n]

    return torch.autograd.functional.jacobian(logits, policy.flat[s].detach())


def test_pullback_is_the_jacobian_product():
    learner = make()
    rollout = make_rollout(learner)
    x = learner.see(rollout.observation)
    u = randn(S, T, N, 1, A, seed=3)
    j = torch.stack(
        [torch.stack([jacobian(learner.policy, x, s, n) for n in range(N)], 1) for s in range(S)]
    )
    by_lane = torch.einsum("stnap,stnda->snp", j, u)
    got = parameter_gradients(learner.policy, x, u, lanes=True)
    torch.testing.assert_close(got.view(S, N, -1), by_lane, **EXACT)
    got = parameter_gradients(learner.policy, x, u, lanes=False)
    torch.testing.assert_close(got, by_lane.sum(1), **EXACT)
    assert torch.equal(direction("logits", learner.policy, x, u), u)
    along = direction("environment", learner.policy, x, u)
    expected = torch.einsum("stnap,snp->stna", j, by_lane).unsqueeze(-2)
    torch.testing.assert_close(along, expected, **EXACT)
    along = direction("batch", learner.policy, x, u)
    expected = torch.einsum("stnap,sp->stna", j, by_lane.sum(1)).unsqueeze(-2)
    torch.testing.assert_close(along, expected, **EXACT)


def test_gradient_noise_is_the_spread_of_the_lanes():
    learner = make()
    rollout = make_rollout(learner)
    x, weight = learner.see(rollout.observation), rollout.valid.double()
    u = randn(S, T, N, 1, A, seed=3)
    got = gradient_noise(learner.policy, x, u, weight)
    for s in range(S):
        gradients = []
        for n in range(N):
            pulled = torch.zeros(learner.policy.flat.shape[1], dtype=torch.float64)
            for t in range(T):
                if rollout.valid[s, t, n]:
                    pulled += u[s, t, n, 0] @ jacobian(learner.policy, x, s, n)[t]
            gradients.append(pulled.numpy() / (float(weight[s].sum()) / N))
        variance = np.var(gradients, axis=0, ddof=1).sum() / N
        signal = max(0.0, float((np.mean(gradients, axis=0) ** 2).sum() - variance))
        assert float(got["gradient/variance"][s]) == pytest.approx(variance, rel=1e-9)
        assert float(got["gradient/snr"][s]) == pytest.approx(signal / variance, rel=1e-9)
    assert gradient_noise(learner.policy, x[:, :, :1], u[:, :, :1], weight[:, :, :1]) == {}


@pytest.mark.parametrize("beta2", [0.999, 0.9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_seed_adam_is_torchs_adam_with_a_step_size_per_seed(beta2, dtype, tolerance):
    sizes = torch.tensor([[1e-3], [3e-2], [0.0]], dtype=dtype)
    ours = randn(3, 64).to(dtype)
    theirs = [row.clone().requires_grad_() for row in ours]
    reference = [
        torch.optim.Adam([x], lr=float(size), betas=(0.9, beta2))
        for x, size in zip(theirs, sizes, strict=True)
    ]
    adam = SeedAdam(ours, beta2=beta2)
    start = ours.clone()
    for i in range(300):
        gradient = (randn(3, 64, seed=i) * torch.tensor([[1.0], [1e-3], [1.0]])).to(dtype)
        gradient[:, :8] = 0.0  # padding: never moves
        adam.step(ours, gradient, sizes)
        for x, g, optimiser in zip(theirs, gradient, reference, strict=True):
            x.grad = g.clone()
            optimiser.step()
    torch.testing.assert_close(ours, torch.stack(theirs).detach(), rtol=tolerance, atol=tolerance)
    assert torch.equal(ours[2], start[2])
    assert torch.equal(ours[:, :8], start[:, :8])
    assert float((ours[0] - start[0]).abs().max()) > 0.01


def observations(seed, dtype):
    """Features of different sizes, one of them constant; some rows are no observations."""
    x = randn(S, 5, 4, 4, seed=seed) * torch.tensor([1.0, 20.0, 0.01, 0.0])
    x = (x + torch.tensor([0.0, 300.0, 5.0, 2.0])).to(dtype)
    valid = randn(S, 5, 4, seed=seed + 100) > -0.5
    return torch.where(valid.unsqueeze(-1), x, 1e6), valid


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_normaliser_is_numpys_mean_and_deviation_and_moves_no_function(dtype, tolerance):
    normaliser = Normaliser(S, F).to(dtype)
    # The second network sees more than the observation, as a control variate does.
    networks = [SeedMLP(F, 3, (8,), S).to(dtype), SeedMLP(F + 2, 1, (8, 8), S).to(dtype)]
    more, seen = randn(S, 5, 4, 2, seed=7).to(dtype), [[] for _ in range(S)]

    @torch.no_grad()
    def outputs(x):
        y = normaliser(x)
        inside = (y.abs() < 10).all(-1, keepdim=True)
        return [networks[0](y), networks[1](torch.cat([y, more], -1))], inside

    for i in range(6):
        x, valid = observations(i, dtype)
        clean = torch.where(valid.unsqueeze(-1), x, torch.tensor([0.0, 300, 5, 2], dtype=dtype))
        before, unclipped_before = outputs(clean)
        normaliser.update(x, valid, networks)
        after, unclipped = outputs(clean)
        assert bool((unclipped & unclipped_before).any()) == (i > 0)  # 300 is clipped at first
        for old, new in zip(before, after, strict=True):
            gap = torch.where(unclipped & unclipped_before, new - old, 0)
            assert float(gap.abs().max()) <= tolerance
        for s in range(S):
            seen[s].append(x[s][valid[s]].double().numpy())
            rows = np.concatenate(seen[s])
            close = {"rtol": 10 * tolerance, "atol": tolerance}
            np.testing.assert_allclose(normaliser.mean[s].numpy(), rows.mean(0), **close)
            deviation = np.maximum(rows.std(0), 1e-4)
            np.testing.assert_allclose(normaliser.deviation[s].numpy(), deviation, rtol=1e-3)
            if dtype == torch.float64:
                np.testing.assert_allclose(normaliser.deviation[s].numpy(), deviation, rtol=1e-9)
            assert float(normaliser.count[s]) == len(rows)


def test_normaliser_starts_as_the_identity_and_clips():
    normaliser = Normaliser(1, 2)
    x = torch.tensor([[[3.0, -3.0], [11.0, -1e9]]])
    assert normaliser(x).tolist() == [[[3.0, -3.0], [10.0, -10.0]]]
    before = copy.deepcopy(normaliser.state_dict())
    nothing = torch.zeros(1, 1, 2, dtype=torch.bool)
    normaliser.update(x.unsqueeze(1), nothing, [])
    assert all(torch.equal(x, before[key]) for key, x in normaliser.state_dict().items())


@torch.no_grad()
def test_learner_starts_from_its_seeds_alone():
    twenty = Learner(Config(estimator="relax"), F, [A], list(range(20)), SCALE)
    alone = Learner(Config(estimator="relax"), F, [A], [7], SCALE)
    assert all(torch.equal(x[0], twenty.state_dict()[k][7]) for k, x in alone.state_dict().items())
    flats = [net.flat[s] for net, s in itertools.product(alone.networks(), [0])]
    assert len(flats) == 3
    assert not torch.equal(twenty.policy.flat[0], twenty.policy.flat[1])
    probabilities = alone.logits(randn(1, 99, F).float()).softmax(-1)
    assert float((probabilities - 1 / A).abs().max()) < 0.02  # near uniform, so it explores
    assert float(alone.critic(randn(1, 99, F).float()).abs().max()) == 0.0
    assert math.isclose(float(alone.value_scale), 1.0)
