"""Invalid-action masks: an environment that raises where a forbidden action is taken.

That the gradient of a masked policy is right is shown in ``test_policy_gradient`` (the MDP
``masked``); that its estimators keep their word with noise, in ``test_policy_gradient_sampled``.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode
from kept_runs import same

import rlgrad
from rlgrad import cards, training, vectorising
from rlgrad.actions import Actions
from rlgrad.card_files import env_card
from rlgrad.cli import main
from rlgrad.comparison.floor import Uniform
from rlgrad.comparison.records import identity
from rlgrad.errors import UsageError
from rlgrad.evaluation import evaluate
from rlgrad.lab.freeze import fresh
from rlgrad.lab.sampling import gather
from rlgrad.lanes import Lanes
from rlgrad.learner import Learner
from rlgrad.loading import load_learner
from rlgrad.make import make_gymnasium, make_lane
from rlgrad.options import Options
from rlgrad.rollout import collect
from rlgrad.watching.playing import play

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
SIZES = {"Discrete": (4,), "MultiDiscrete": (3, 2), "MultiBinary": (2, 2, 2)}
SPACES = {
    "Discrete": Discrete(4, start=-1),
    "MultiDiscrete": MultiDiscrete([3, 2], start=[1, 0]),
    "MultiBinary": MultiBinary(3),
}


class Locks(gymnasium.Env):
    """Some categories are locked at each step, and a locked one raises; all are at the end.

    ``fault`` names what is wrong with the mask of the third step.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 9}

    def __init__(self, kind="Discrete", fault="", seen=None, render_mode=None):
        self.action_space, self.sizes, self.fault = SPACES[kind], SIZES[kind], fault
        self.observation_space = seen or Box(-np.inf, np.inf, (2,), np.float64)
        self.render_mode = render_mode

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

    def _seen(self):
        if isinstance(self.observation_space, Dict):
            return {"t": self.time % 3, "x": np.array([self.x], np.float32)}
        return np.array([self.x, self.time / 7])

    def _info(self, over=False):
        """A tuple of rows, their numbers in a row, or for Discrete just those."""
        self.free = [self.np_random.random(n) < 0.6 for n in self.sizes]
        for row in self.free:
            row[self.np_random.integers(len(row))] = True
        if over:
            self.free = [row & False for row in self.free]
        rows = tuple(row.astype(np.int8) for row in self.free)
        mask = rows if self.time % 2 and len(rows) > 1 else np.concatenate(rows)
        if self.fault and self.time == 3:
            rows[-1][:] = 0
            mask = np.concatenate(rows)
            mask = {"short": mask[1:], "twos": 2 + mask}.get(self.fault, rows)
            return {} if self.fault == "missing" else {"action_mask": mask}
        return {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.time = self.np_random.normal(), 0
        return self._seen(), self._info()

    def step(self, action):
        chosen = np.ravel(np.asarray(action) - getattr(self.action_space, "start", 0))
        if not all(row[i] for row, i in zip(self.free, chosen, strict=True)):
            raise RuntimeError(f"{chosen} is locked")
        self.x += 0.3 * self.np_random.normal()
        self.time += 1
        over, cut = bool(self.np_random.random() < 0.05), self.time == 11
        return self._seen(), float(chosen.sum()), over, cut, self._info(over or cut)


class Open(Locks):
    """The same without any mask."""

    def _info(self, over=False):
        super()._info()
        self.free = [row | True for row in self.free]
        return {}


if "masks/Open-v0" not in gymnasium.registry:
    for kind in SPACES:
        gymnasium.register(f"masks/{kind}-v0", Locks, kwargs={"kind": kind}, max_episode_steps=30)
    seen = Dict({"t": Discrete(3), "x": Box(-np.inf, np.inf, (1,), np.float32)})
    more = {"kind": "MultiDiscrete", "seen": seen}
    gymnasium.register("masks/Dict-v0", Locks, kwargs=more, max_episode_steps=30)
    gymnasium.register("masks/Open-v0", Open, max_episode_steps=30)
SMALL = {"num_envs": 4, "num_steps": 8, "hidden": (8,), "total_timesteps": 128}
MODES = ("on", "off")
OPTIONS = {"quiet": True, "vec": "sync", "eval_episodes": 3}


@pytest.fixture
def train(tmp_path):
    """Trains a small run in ``tmp_path``."""
    return lambda *names, **given: rlgrad.train(
        *names, **{**SMALL, **OPTIONS, "log_dir": str(tmp_path), **given}
    )


def tensors(run, seed):
    return load_learner(run, seed)[0].state_dict()


@pytest.mark.parametrize(
    ("kind", "mask", "expected"),
    [
        ("Discrete", np.array([0, 1, 1, 0], np.int8), [[0, 1, 1, 0]]),
        ("Discrete", [False, True, True, True], [[0, 1, 1, 1]]),
        ("MultiDiscrete", ([1, 0, 1], np.array([0, 1])), [[1, 0, 1], [0, 1, 0]]),
        ("MultiDiscrete", np.array([1, 0, 1, 0, 1]), [[1, 0, 1], [0, 1, 0]]),
        ("MultiBinary", np.array([[1, 1], [0, 1], [1, 0]]), [[1, 1], [0, 1], [1, 0]]),
    ],
)
def test_a_mask_comes_in_several_forms(kind, mask, expected):
    assert Actions(SPACES[kind]).allowed(mask).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("agent", "kind"),
    [("relax", kind) for kind in (*SPACES, "Dict")]
    + [(agent, "Dict") for agent in ("rebar", "reinforce-learned", "all-action-control")],
)
def test_what_is_locked_is_never_done(train, agent, kind):
    """In rollouts, whole episodes, updates and evaluation; the card says that masks were used."""
    run = train(f"masks/{kind}-v0", agent, max_episode_steps=9)
    (seed,) = run.result()["seeds"]
    assert seed["status"] == "finished"
    assert seed["evaluation"]["sampled"]["episodes"] == 3
    assert run.masked
    assert tomllib.loads((run.path / "card.toml").read_text())["environment"]["action_masks"]


def test_what_the_policy_thinks_of_locks_does_not_matter(train):
    """The update moves no output of a category that was never free."""
    learner = load_learner(train("masks/Discrete-v0", "actor-critic"))[0]
    x = torch.randn(1, 5, 2)
    mask = torch.tensor([0.0, 1, 1, 0]).expand(1, 5, 4)
    both = torch.cat([x, mask], -1)
    free, locked = learner.logits(x), learner.logits(both)
    assert torch.equal(locked[..., 1:3], free[..., 1:3])
    assert bool(locked[..., [0, 3]].isneginf().all())
    acted = learner.actor()(both.numpy())
    torch.testing.assert_close(torch.from_numpy(acted), locked.detach())


def test_workers_and_company_change_no_bit(train):
    here = train("masks/MultiDiscrete-v0", "relax", seeds="3,8")
    there = train("masks/MultiDiscrete-v0", "relax", seeds="3,8", vec="async")
    alone = train("masks/MultiDiscrete-v0", "relax", seeds=[8])
    same(tensors(here, 8), tensors(there, 8))
    same(tensors(here, 8), tensors(alone, 8))
    assert not torch.equal(tensors(here, 3)["policy.flat"], tensors(here, 8)["policy.flat"])


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce"])
def test_a_run_goes_on_bit_for_bit(train, agent):
    options = {"max_episode_steps": 9, "anneal_steps": 256, "save_freq": 64}
    first = train("masks/Dict-v0", agent, total_timesteps=100, **options)
    straight = train("masks/Dict-v0", agent, total_timesteps=256, **options)
    again = rlgrad.resume(first, total_timesteps=256)
    same(tensors(straight, 0), tensors(again, 0))
    assert straight.result()["seeds"][0]["steps"] == again.result()["seeds"][0]["steps"]


FAULTS = {
    "empty": "allows no action in a factor",
    "short": "expected 5 numbers 0 or 1",
    "twos": "expected 5 numbers 0 or 1",
    "missing": "without 'action_mask'",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("vec", ["sync", "async"])
def test_a_wrong_mask_ends_with_seed_lane_and_step(train, fault, vec):
    where = r"in environment \d of seed 7, at step 3 of the episode that reset\(seed=\d+\) began"
    with pytest.raises(UsageError, match=rf"{FAULTS[fault]}.* {where}"):
        train("masks/MultiDiscrete-v0", seeds=[7], env_kwargs={"fault": fault}, vec=vec)


def test_masks_can_be_refused_and_asked_for(train):
    with pytest.raises(UsageError, match=r"RuntimeError: .* is locked"):
        train("masks/Discrete-v0", action_masks="off")
    for env, why in (("masks/Open-v0", "first observation"), ("CartPole-v1", "its simulator")):
        with pytest.raises(UsageError, match=f"--action-masks on, but {env} .*{why}"):
            train(env, action_masks="on", vec="auto")
    assert not train("masks/Open-v0").masked
    assert train("masks/Discrete-v0", action_masks="on").masked


def test_users_are_told(tmp_path):
    options = Options(quiet=True, vec="sync", log_dir=str(tmp_path))
    session = training.start(cards.resolve("masks/Discrete-v0", flags=SMALL), [0], options)
    session.close()
    assert any("masks/Discrete-v0 masks actions" in note for note in session.trainer.notes)


def test_predict_takes_the_mask_of_the_info(train):
    agent = rlgrad.load(train("masks/MultiDiscrete-v0"))
    x, mask = np.zeros((50, 2)), np.tile([0, 1, 1, 1, 0], (50, 1))
    actions, _ = agent.predict(x, action_mask=mask)
    assert set(actions[:, 0]) == {2, 3}
    assert set(actions[:, 1]) == {0}
    p = agent.action_probability(x[0], action_mask=([0, 1, 0], [1, 1]))[0]
    assert p[0].tolist() == [0, 1, 0]
    assert 0 < p[1, 0] < 1
    assert p[1, 2] == 0
    with pytest.raises(ValueError, match="50 observations"):
        agent.predict(x, action_mask=mask[:3])
    with pytest.warns(UserWarning, match="trained with action masks"):
        agent.predict(x)
    agent.predict(x)  # once is enough


def test_next_step_resets_and_empty_masks_at_the_end_are_harmless():
    """Rows that are no transitions forbid everything; nothing becomes NaN for that."""
    env = make_gymnasium("masks/Discrete-v0", 4, autoreset=AutoresetMode.NEXT_STEP, masked=True)
    lanes = Lanes(env)
    config = cards.resolve("masks/Discrete-v0", "relax", flags=SMALL).config
    learner = Learner(config, lanes.features, lanes.actions.sizes, [0], masked=True)
    gumbel = -torch.empty(1, 40, 4, 1, 4).exponential_().log()
    rollout, _ = collect(lanes, learner.actor(), lanes.reset([1, 2, 3, 4]), gumbel)
    lanes.close()
    assert bool((~rollout.valid).any())
    rollout.observation[~rollout.valid] = 0.0  # what whole episodes have after their end
    numbers = learner.update(rollout, rollout.gumbel.exp(), torch.ones(1, 1), 1, measure=True)
    assert all(bool(x.isfinite().all()) for x in learner.state_dict().values())
    assert bool(numbers["train/entropy"].isfinite())


def test_watching_and_measuring_keep_to_masks(train):
    run = train("masks/MultiBinary-v0")
    agent = rlgrad.load(run)
    env = gymnasium.make("masks/MultiBinary-v0", render_mode="rgb_array")
    moments = list(play(env, agent, None, 2))
    env.close()
    assert sum(bool(moment.ended) for moment in moments) == 2
    frozen, notes = fresh("masks/MultiBinary-v0", "actor-critic")
    assert any("masks actions" in note for note in notes)
    sample = gather(frozen, 64, seed=0)
    mask = sample.rollout.observation[..., 2:].unflatten(-1, (3, 2))
    taken = mask.gather(-1, sample.rollout.action.unsqueeze(-1)).squeeze(-1)
    assert bool(taken[sample.rollout.valid].bool().all())


@pytest.mark.parametrize("kind", SPACES)
def test_random_actions_keep_to_masks(kind):
    """Where engines are timed, and where a comparison measures what chance comes to."""
    card = dataclasses.replace(env_card(f"masks/{kind}-v0"), masked=True)
    assert vectorising._seconds(vectorising.vectorise(make_lane(card, 0), 2, "sync")) > 0
    score = evaluate(Uniform(SIZES[kind], masked=True), card.id, 0, 5)
    assert score.sampled.episodes == 5
    with pytest.raises(UsageError, match="is locked"):
        evaluate(Uniform(SIZES[kind]), card.id, 0, 5)


def test_a_run_with_masks_is_found_again(train):
    """What a comparison reuses is decided by what was asked for, not by what was found."""
    run = train("masks/Dict-v0")
    asked = cards.resolve("masks/Dict-v0", flags=SMALL)
    others = [cards.resolve("masks/Dict-v0", flags=SMALL | {"action_masks": x}) for x in MODES]
    assert identity(run)["config"] == identity(asked)["config"]
    assert identity(run)["environment"].keys() == identity(asked)["environment"].keys()
    assert all(identity(run) != identity(other) for other in others)


def test_peers_are_said_to_take_no_masks(tmp_path):
    pytest.importorskip("stable_baselines3")
    options = Options(quiet=True, log_dir=str(tmp_path))
    card = cards.resolve("masks/MultiBinary-v0", "sb3-a2c", flags={"total_timesteps": 64})
    session = training.start(card, [0], options)
    session.close()
    assert [note for note in session.trainer.notes if "sb3-a2c may do what is forbidden" in note]
    assert not session.run.masked


@pytest.mark.parametrize("kind", SPACES)
def test_an_exported_policy_takes_masks(train, tmp_path, capsys, kind):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    run, path = train(f"masks/{kind}-v0"), tmp_path / "policy.onnx"
    assert main(["export", str(run.path), "--onnx", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_difference"] < 1e-5
    session, agent = onnxruntime.InferenceSession(path), rlgrad.load(run)
    mask = [[0, 1, 0, 1]] if kind == "Discrete" else [[[0, 1] + [0] * (max(SIZES[kind]) - 2)]]
    shape = [each if isinstance(each, int) else 1 for each in session.get_inputs()[1].shape]
    full = np.broadcast_to(np.array(mask, bool), shape)
    x = np.array([[0.3, 0.1]], np.float32)
    _, p = session.run(None, {"observation": x, "action_mask": full})
    flat = full[0] if kind == "Discrete" else full[0][agent._actions._exists]
    assert p == pytest.approx(agent.action_probability(x[0], flat), abs=1e-5)
    assert (p[~full] == 0).all()


def test_evaluation_is_of_the_masked_policy(train):
    """Seeds of an evaluation decide it whoever asks."""
    run = train("masks/Discrete-v0")
    score = evaluate(load_learner(run)[0], "masks/Discrete-v0", 0, 3)
    assert score.to_dict() == run.result()["seeds"][0]["evaluation"]
