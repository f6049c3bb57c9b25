"""Callbacks and logged infos: what they see and change, what a resumed run knows, what they break.

Sizes are the smallest that show the behaviour.
"""

from __future__ import annotations

import json
import random

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from kept_runs import KilledError
from static import tensors_everywhere, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlgrad
from rlgrad import cards, store
from rlgrad.callbacks import Callback, CustomScalars, InfoScalars, Progress, StopOnReward
from rlgrad.callbacks.calling import check_callbacks
from rlgrad.captured.engine import Captured
from rlgrad.cli import main
from rlgrad.engine import Outcome
from rlgrad.errors import UsageError
from rlgrad.info_notes import Counted, Notes
from rlgrad.infos import Infos, merged, parse_wanted

torch.set_num_threads(1)
SMALL = {
    "num_envs": 2, "num_steps": 8, "hidden": (8,), "eval_episodes": 2, "log_freq": 1,
    "vec": "sync", "quiet": True, "total_timesteps": 96,
}  # fmt: skip


class Told(gymnasium.Env):
    """Five steps an episode; the info tells the time, some of it deep inside or of other kinds."""

    observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.draw = 0, self.np_random.normal()
        return np.zeros(2, np.float32), {"time": 999.0}

    def step(self, action):
        self.time += 1
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        info = {"time": self.time, "draw": self.draw, "deep": {"pair": [0, np.float32(self.time)]}}
        info |= {"text": "a", "odd": float("nan"), "one": np.array([self.time > 4])}
        return observation, float(action), self.time == 5, False, info


if "callbacks/Told-v0" not in gymnasium.registry:
    gymnasium.register("callbacks/Told-v0", Told, max_episode_steps=50)


class Heard(Callback):
    """Writes down how it is called; draws from every global generator on the way."""

    def __init__(self):
        self.calls, self.count = [], 0

    def on_start(self, progress):
        self.calls.append("start")

    def on_iteration(self, progress):
        self.count += 1
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(3)
        self.calls.append(("iteration", progress.outcome(progress.seeds[0]).steps))

    def on_log(self, progress, seed):
        probability = progress.agent(seed)._act(np.zeros((1, 1, 2), np.float32))
        return {"probe/logit": float(probability.ravel()[0]), "probe/count": self.count}

    def on_evaluation(self, progress, seed):
        mean = progress.outcome(seed).evaluation["sampled"]["mean"]
        self.calls.append(("evaluation", seed, mean))

    def on_end(self, progress):
        self.calls.append("end")
        assert progress.run.result()["seeds"]

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


@pytest.fixture
def small(tmp_path):
    """Trains a small run in ``tmp_path``."""

    def small(env="callbacks/Told-v0", agent="actor-critic", **options):
        own = {k: v for k, v in SMALL.items() if not agent.startswith("sb3") or k not in
               ("num_steps", "hidden", "vec")}  # fmt: skip
        return rlgrad.train(env, agent, **{**own, "log_dir": str(tmp_path), **options})

    return small


def learned(run):
    return store.load_checkpoint(run.checkpoints()[-1])[0]


def same_bits(one, other):
    one, other = learned(one), learned(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_callback_is_called_in_order_and_changes_no_bit(small):
    heard = Heard()
    plain, run = small(seeds="1000,1001"), small(seeds="1000,1001", callbacks=[heard])
    assert same_bits(plain, run)
    assert heard.calls[0] == "start"
    assert heard.calls[-1] == "end"
    assert [c for c in heard.calls if c[0] == "iteration"] == [
        ("iteration", steps) for steps in range(16, 97, 16)
    ]
    scores = {s["seed"]: s["evaluation"]["sampled"]["mean"] for s in run.result()["seeds"]}
    assert [c for c in heard.calls if c[0] == "evaluation"] == [
        ("evaluation", seed, mean) for seed, mean in scores.items()
    ]
    rows = [row for row in run.metrics() if "probe/count" in row]
    assert [(r["seed"], r["step"], r["probe/count"]) for r in rows] == [
        (seed, 16 * i, i) for i in range(1, 7) for seed in (1000, 1001)
    ]
    assert len({row["probe/logit"] for row in rows}) == len(rows)  # the agents of that moment
    strip = ("time/", "probe/")
    without = [{k: x for k, x in r.items() if not k.startswith(strip)} for r in run.metrics()]
    assert without == [
        {k: x for k, x in r.items() if not k.startswith(strip)} for r in plain.metrics()
    ]


def test_custom_scalars_reach_tensorboard_in_the_folder_of_their_seed(small):
    run = small(seeds="7,9", callbacks=[CustomScalars(lambda p, seed: {"mine/seed": seed})])
    for seed in (7, 9):
        events = EventAccumulator(str(run.path / f"seed-{seed}")).Reload()
        assert {event.value for event in events.Scalars("mine/seed")} == {seed}


class Best(Callback):
    """Stops a seed after so many iterations, of which a resumed run must know."""

    def __init__(self, after):
        self.after, self.seen = after, 0

    def on_iteration(self, progress):
        self.seen += 1
        if self.seen == self.after:
            progress.stop(progress.seeds[0], "that is enough")

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"]


@pytest.mark.slow
def test_a_stopped_seed_is_frozen_and_evaluated_and_the_others_keep_their_bits(small):
    straight, run = small(seeds="1000,1001"), small(seeds="1000,1001", callbacks=[Best(2)])
    first, second = run.result()["seeds"]
    assert (first["status"], first["steps"], first["reason"]) == ("stopped", 32, "that is enough")
    assert first["evaluation"]["sampled"]["episodes"] == 2
    assert (second["status"], second["steps"]) == ("finished", 96)
    short = small(seeds=[1000], callbacks=[Best(2)])
    one, other, alone = learned(straight), learned(run), learned(short)
    policies = [name for name in one if name.startswith("policy")]
    assert policies
    assert all(torch.equal(one[name][1], other[name][1]) for name in policies)
    assert all(torch.equal(alone[name][0], other[name][0]) for name in policies)
    again = rlgrad.resume(run, total_timesteps=128, callbacks=[Best(2)])
    assert [s["steps"] for s in again.result()["seeds"]] == [32, 128]


def test_a_seed_is_frozen_on_the_device_too(monkeypatch):
    tensors_everywhere(monkeypatch)
    engine = Captured(trainer("actor-critic", total_timesteps=512), recorded=False)

    class Watch:
        stopped, looks, kept = False, 0, None

        def wants(self, steps):
            return True

        def after(self):
            self.looks += 1
            if self.looks == 3:
                engine.outcomes[0].status = "stopped"
                self.steps = engine.outcomes[0].steps
                self.kept = [x[0].clone() for x in engine.trainer.learner.parameters()]

    watch = Watch()
    engine.run(watch)
    now = list(engine.trainer.learner.parameters())
    assert [o.steps for o in engine.outcomes] == [watch.steps, 512]
    assert 0 < watch.steps < 512
    assert all(torch.equal(x[0], y) for x, y in zip(now, watch.kept, strict=True))
    assert any(not torch.equal(x[1], x[0]) for x in now)
    engine.close()


def test_stop_on_reward_by_training_and_by_evaluation(small):
    # Every episode has five steps, so 100 episodes of one lane of two take 250 env steps at least.
    enough = {"total_timesteps": 2000, "log_freq": 0, "num_steps": 32}
    run = small(callbacks=[StopOnReward(0.0)], **enough)
    (seed,) = run.result()["seeds"]
    assert seed["status"] == "stopped"
    assert 100 <= seed["episodes"] < 120
    assert "reached 0 at" in seed["reason"]
    run = small(callbacks=[StopOnReward(0.0, evaluation=True)], eval_freq=64, **enough)
    assert run.result()["seeds"][0]["steps"] == 64
    run = small(callbacks=[StopOnReward(1e9)], total_timesteps=64)
    assert run.result()["seeds"][0]["status"] == "finished"


class Scores(Progress):
    """Of two seeds with mean returns that are set by hand."""

    running = (1, 2)

    def __init__(self, means):
        self.means, self.stopped = means, []

    def outcome(self, seed):
        return Outcome(seed, steps=5, episodes=100, mean_return=self.means[seed])

    def stop(self, seed=None, why=""):
        self.stopped.append(seed)


def test_stopping_together_waits_for_all_and_remembers_who_was_there():
    callback, progress = StopOnReward(10, together=True), Scores({1: 11.0, 2: 3.0})
    callback.on_iteration(progress)
    progress.means = {1: 2.0, 2: 9.9}
    callback.on_iteration(progress)
    assert progress.stopped == []
    after = StopOnReward(10, together=True)
    after.restore(json.loads(json.dumps(callback.state())))
    progress.means = {1: 2.0, 2: 10.0}
    after.on_iteration(progress)
    assert progress.stopped == [None]


# --------------------------------------------------------------------------------------- faults


class Breaks(Callback):
    def __init__(self, name, what):
        self.name, self.what = name, what

    def on_iteration(self, progress):
        if self.name == "on_iteration" and progress.outcome(0).steps == 48:
            self.what()

    def on_log(self, progress, seed):
        return self.what() if self.name == "on_log" else {}

    def state(self):
        return self.what() if self.name == "state" else {}


def raising():
    raise ZeroDivisionError("no\nluck")


BROKEN = {
    "on_iteration": (raising, "raised ZeroDivisionError: no luck in on_iteration"),
    "on_log": (lambda: {"rollout/ep_rew_mean": 1.0}, "logged already in on_log"),
    "state": (lambda: {"a": object()}, "object is no data for JSON in state"),
}
GIVEN = {
    "no mapping": (3.0, "expected numbers by tag"),
    "step": ({"step": 1.0}, "the tag 'step'"),
    "text": ({"a": "b"}, "could not convert string to float"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_ends_the_run_in_a_line_with_its_traceback_in_a_file(small, tmp_path, name):
    what, words = BROKEN[name]
    with pytest.raises(UsageError, match=r"^callback Breaks ") as caught:
        small(callbacks=[Breaks(name, what)], save_freq=16, seeds=1)
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert "training stood at" in text
    (path,) = tmp_path.rglob("callback-error.txt")
    assert str(path) in text
    assert "Traceback" in path.read_text()
    if name == "on_iteration":
        assert "step-000000000032.safetensors is kept" in text
        assert same_bits(small(seeds=1), rlgrad.resume(path.parent, quiet=True))


@pytest.mark.parametrize("what", GIVEN)
def test_what_cannot_be_logged_is_named(small, what):
    given, words = GIVEN[what]
    with pytest.raises(UsageError, match=words):
        small(callbacks=[Breaks("on_log", lambda: given)])


class Misspelled(Callback):
    def on_itteration(self, progress):
        pass


def test_what_is_no_callback_is_refused_before_anything_is_written(small, tmp_path):
    words = r"Misspelled has on_itteration; did you mean on_iteration"
    with pytest.raises(UsageError, match=words):
        small(callbacks=[Misspelled()])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match=r"callbacks\[1\] = <built-in function print>; expected"):
        check_callbacks([StopOnReward(3), print])
    with pytest.raises(UsageError, match="expected a list of Callback"):
        check_callbacks(StopOnReward(3))


# --------------------------------------------------------------------------------------- resume


WANTED = ("time", "draw:end", "draw:max")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("agent", ["actor-critic", "reinforce-constant"])
def test_a_killed_run_goes_on_with_what_its_callbacks_and_infos_knew(small, tmp_path, agent):
    options = {"log_info": WANTED, "save_freq": 16, "log_freq": 40, "seeds": "1000,1001"}
    if agent != "actor-critic":
        options |= {"total_timesteps": 200, "max_episode_steps": 9}
        options |= {"num_steps": cards.resolve("CartPole-v1", agent).config.num_steps}
    straight = small(agent=agent, callbacks=[Heard()], **options)

    class Dies(Heard):
        def on_iteration(self, progress):
            super().on_iteration(progress)
            if self.count == 4:
                raise KilledError

    Dies.__qualname__ = "Heard"
    with pytest.raises(KilledError):
        small(agent=agent, callbacks=[Dies()], **options)
    (path,) = [card.parent for card in tmp_path.rglob("card.toml") if card.parent != straight.path]
    run = rlgrad.resume(path, callbacks=[Heard()], quiet=True)
    assert same_bits(straight, run)
    assert run.result()["exact"]

    def rows(each):
        return [
            {k: x for k, x in row.items() if not k.startswith("time/")} for row in each.metrics()
        ]

    assert rows(run) == rows(straight)
    assert any("info/draw_end" in row for row in rows(run))


def test_other_callbacks_than_before_mark_the_run(small, capsys):
    run = small(callbacks=[Heard(), InfoScalars("time")])
    rlgrad.resume(run, total_timesteps=128, callbacks=[Heard()])
    assert run.result()["exact"]
    assert any("info/time" in row for row in run.metrics() if row["step"] == 128)
    capsys.readouterr()
    rlgrad.resume(run, total_timesteps=160)
    assert not run.result()["exact"]
    assert "callbacks Heard -> (none) since it began" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- infos


def means(run, tag, seed=0):
    return [row[tag] for row in run.metrics() if tag in row and row["seed"] == seed]


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_infos_of_all_steps_are_reduced_since_the_last_logged_point(small, vec):
    wanted = ("time", "time:min", "time:max", "time:end", "one:end", "deep.pair.1")
    run = small(num_steps=10, total_timesteps=40, log_freq=20, log_info=wanted, vec=vec)
    # Ten steps of each lane are two whole episodes of the times 1 to 5.
    assert means(run, "info/time") == [3.0, 3.0]
    assert means(run, "info/deep.pair.1") == [3.0, 3.0]
    assert means(run, "info/time_min") == [1.0, 1.0]
    assert means(run, "info/time_max") == [5.0, 5.0]
    assert means(run, "info/time_end") == [5.0, 5.0]
    assert means(run, "info/one_end") == [1.0, 1.0]
    events = EventAccumulator(str(run.path / "seed-0")).Reload()
    assert [e.value for e in events.Scalars("info/time")] == [3.0, 3.0]


@pytest.mark.parametrize("agent", ["actor-critic", "reinforce-constant"])
def test_a_seeds_infos_are_the_same_alone_and_among_others(small, agent):
    options = {"log_info": ("draw", "draw:end", "time"), "total_timesteps": 64}
    if agent != "actor-critic":
        options["num_steps"] = cards.resolve("CartPole-v1", agent).config.num_steps
    alone = small(agent=agent, seeds=[1001], **options)
    among = small(agent=agent, seeds="1000-1002", **options)
    for tag in ("info/draw", "info/draw_end", "info/time"):
        assert means(alone, tag, 1001) == means(among, tag, 1001) != []
    if agent != "actor-critic":  # what a lane does after its episode counts for nothing
        assert set(means(alone, "info/time", 1001)) == {3.0}


def test_keys_without_numbers_are_told_once(small, capsys):
    small(log_info=("tme", "text", "odd", "time"), quiet=False)
    said = capsys.readouterr().err
    for key in ("tme", "text", "odd"):
        assert said.count(f"--log-info {key}: no number so far") == 1
    assert "infos hold deep, draw, odd, one, text, time" in said
    assert "--log-info time" not in said


@pytest.mark.slow
def test_peers_log_infos_and_call_callbacks_with_the_bits_of_learn(small):
    heard = Heard()
    heard.on_log = lambda progress, seed: {"probe/count": heard.count}
    options = {"agent": "sb3-a2c", "seeds": 2, "total_timesteps": 512, "log_freq": 256}
    run = small(callbacks=[heard, InfoScalars("time", reduce="max")], **options)
    assert same_bits(small(**options), run)
    for seed in (0, 1):
        assert set(means(run, "info/time_max", seed)) == {5.0}
    counts = [row["probe/count"] for row in run.metrics() if "probe/count" in row]
    assert counts
    assert counts == sorted(counts)
    stopped = small(callbacks=[Best(1)], **options).result()["seeds"]
    assert [s["status"] for s in stopped] == ["stopped", "finished"]


@pytest.mark.parametrize("vec", ["auto", "envpool"])
def test_infos_of_what_gives_none_are_refused(small, tmp_path, vec):
    with pytest.raises(UsageError, match=r"got --log-info, .* gives no infos; use --vec sync"):
        small(env="CartPole-v1", log_info=("x",), vec=vec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", ":max", "x:men", "x:"])
def test_a_misspelled_reduction_is_refused(text):
    with pytest.raises(UsageError, match="expected KEY or KEY:REDUCTION"):
        parse_wanted(text)
    with pytest.raises(UsageError, match="did you mean mean"):
        InfoScalars("x", reduce="men")


def test_a_key_may_have_colons_and_dots():
    assert parse_wanted("a:b:max") == ("a:b", "max")
    notes = Notes(Counted(("a.b", "c.d")))
    notes.add({"a.b": 1.0, "a": {"b": 7.0}, "c": {"d": True}}, False)
    taken = notes.take()
    assert {key: each.total for key, each in taken.noted.items()} == {"a.b": 1.0, "c.d": 1.0}
    assert merged([taken, notes.take()]) == taken


@pytest.mark.parametrize("state", [[{}, {}], [{"a": [1.0]}], [{"a": [0, 1, 1, 1, 1, 1]}],
                                   [{"a": ["x"] * 6}]])  # fmt: skip
def test_a_damaged_state_of_infos_is_refused(state):
    with pytest.raises(ValueError, match="info"):
        Infos((), 1).load(state)


def test_the_flag_may_be_repeated_and_goes_on_when_resumed(tmp_path, capsys):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()
             if k not in ("hidden", "quiet", "total_timesteps")]  # fmt: skip
    command = ["train", "--log-info", "time", "callbacks/Told-v0", "-n", "32", "--quiet"]
    with pytest.raises(SystemExit):  # as with the other lists, ENV stands before it
        main([*command, "--help"])
    command = ["train", "callbacks/Told-v0", "--log-info", "time", "-n", "32", "--quiet", *flags]
    command += ["--log-info=draw:end", "--log-dir", str(tmp_path), "--json"]
    assert main(command) == 0
    path = json.loads(capsys.readouterr().out.splitlines()[-1])["run"]
    assert main(["resume", path, "-n", "64", "--quiet"]) == 0
    last = store.read_run(next(tmp_path.glob("*/*/*"))).metrics()
    tags = [set(row) for row in last if row["step"] == 64 and "train/n_updates" in row]
    assert {"info/time", "info/draw_end"} <= tags[0]
