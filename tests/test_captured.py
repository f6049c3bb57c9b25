"""The iteration as one program: the trainer's numbers, and nothing that a CUDA graph cannot hold.

A GPU is not needed: the program runs operation by operation on the CPU's tensors, where it is held
to ``Trainer.step``, and on the device "meta", whose tensors have no numbers that could be asked
for. What only a GPU can show stands in ``test_gpu.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from static import AGENTS, Static, tensors_everywhere, trainer

import rlgrad
from rlgrad.captured import graphs
from rlgrad.captured.engine import Captured, captured, why_not
from rlgrad.captured.tally import Tally, since_last_end
from rlgrad.engine import WINDOW
from rlgrad.errors import UsageError
from rlgrad.preflight import Work, choose_device
from rlgrad.rollout import Episodes, Rollout

torch.set_num_threads(1)


def program(name, device="cpu", iterations=0, **flags) -> Captured:
    engine = Captured(trainer(name, device, **flags), recorded=False)
    for _ in range(iterations):
        engine.step()
    return engine


def plain(outcome):
    """All but the clock's; means up to the order of their sums."""
    table = outcome.plain()
    del table["solved_at_seconds"]
    return {k: round(v, 9) if isinstance(v, float) else v for k, v in table.items()}


@pytest.mark.parametrize("name", AGENTS)
def test_the_program_trains_as_the_trainer_does(name, monkeypatch):
    usual = trainer(name)
    for _ in range(12):
        usual.step()
    tensors_everywhere(monkeypatch)
    ours = program(name, iterations=12)
    ours.read()
    assert [plain(o) for o in ours.outcomes] == [plain(o) for o in usual.outcomes]
    assert ours.outcomes[0].episodes > WINDOW / 4
    (tensors, counters), (expected, others) = ours.state(), usual.state()
    assert counters.keys() == others.keys()
    assert counters["iteration"] == others["iteration"] == 12
    assert tensors.keys() == expected.keys()
    for key, x in expected.items():
        # The same arithmetic up to the order of sums, so no action differs and errors stay small.
        torch.testing.assert_close(tensors[key], x, rtol=2e-3, atol=2e-4, msg=key)


@pytest.mark.parametrize("name", AGENTS)
def test_nothing_in_the_program_asks_the_device_or_copies_to_it(name, monkeypatch):
    tensors_everywhere(monkeypatch)
    for device in ("cpu", "meta"):
        engine = program(name, device, iterations=1, total_timesteps=10**6)
        logs = []
        for measure in (False, True, False):
            with Static(device) as mode:
                engine.iterate(3, measure)
            logs.append(mode.seen)
        # The same operations and shapes every time, whatever the numbers are.
        assert logs[0] == logs[2]
        assert len(logs[1]) > len(logs[0]) > 100


def test_operations_do_not_grow_with_seeds_or_lanes(monkeypatch):
    tensors_everywhere(monkeypatch)
    counts = set()
    for lanes, seeds in ((8, 2), (4096, 2), (8, 20)):
        engine = program("relax", "meta", num_envs=lanes, seeds=seeds)
        with Static("meta") as mode:
            engine.step()
        counts.add(len(mode.seen))
    assert len(counts) == 1


def test_what_asks_is_caught():
    x = torch.ones(3)
    for asks in (
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: x[x > 0],
        lambda: x.nonzero(),
        lambda: torch.tensor(1.0) + x,
        lambda: x.tolist() and x.new_tensor([1.0]),
    ):
        with pytest.raises(AssertionError, match=r"asks|mask"), Static("cpu"):
            asks()


@pytest.mark.parametrize("name", AGENTS)
def test_all_that_changes_stays_where_it_is_and_is_known(name, monkeypatch):
    # A replay reads and writes memory; what a program kept elsewhere, it would not see.
    tensors_everywhere(monkeypatch)
    usual, undone = (program(name, iterations=1) for _ in range(2))
    before = [x.data_ptr() for x in undone.program.tensors()]
    with undone.program.unchanged():
        for measure in (False, True):
            undone.iterate(4, measure)
    for engine in (usual, undone):
        engine.step()
        engine.step()
    assert [x.data_ptr() for x in undone.program.tensors()] == before
    for one, other in zip(usual.program.tensors(), undone.program.tensors(), strict=True):
        assert torch.equal(one, other)


def test_twice_the_same_bits(monkeypatch):
    tensors_everywhere(monkeypatch)
    one, other = (program("relax", iterations=5).state()[0] for _ in range(2))
    assert all(torch.equal(x, other[key]) for key, x in one.items())


class Patience:
    """A watch that wants numbers every so many env steps, as a session does."""

    stopped = False

    def __init__(self, engine, freq=300):
        self.engine, self.freq, self.looks = engine, freq, []

    def wants(self, steps):
        now = self.engine.outcomes[0].steps
        return now // self.freq < (now + steps) // self.freq

    def after(self):
        self.looks.append((self.engine.outcomes[0].steps, self.engine.numbers(0)))


@pytest.mark.parametrize("stop_when_solved", [False, True])
def test_a_run_ends_where_the_trainer_s_ends(stop_when_solved, monkeypatch):
    flags = {"total_timesteps": 4000, "stop_when_solved": stop_when_solved}
    usual = trainer("actor-critic", **flags)
    usual.solved_at = 20.0
    usual.run(Patience(usual))
    tensors_everywhere(monkeypatch)
    inner = trainer("actor-critic", **flags)
    inner.solved_at = 20.0
    ours = Captured(inner, recorded=False)
    watch = Patience(ours)
    ours.run(watch)
    assert [plain(o) for o in ours.outcomes] == [plain(o) for o in usual.outcomes]
    assert {o.status for o in ours.outcomes} == {"solved" if stop_when_solved else "finished"}
    assert all(o.solved_at_step and o.solved_at_seconds for o in ours.outcomes)
    for key, x in usual.learner.state_dict().items():  # frozen from the same iteration on
        torch.testing.assert_close(inner.learner.state_dict()[key], x, rtol=2e-3, atol=2e-4)
    steps, numbers = watch.looks[0]
    assert steps == 384  # the first rollout of 128 past 300
    assert numbers.keys() >= {"gradient/norm", "train/value_loss"}


def test_a_seed_that_diverges_is_frozen_alone(monkeypatch):
    tensors_everywhere(monkeypatch)
    engine = program("actor-critic", iterations=2)
    engine.trainer.learner.critic.network.flat.data[0, 0] = float("inf")
    before = {k: x[0].clone() for k, x in engine.trainer.learner.state_dict().items()}
    moved = engine.trainer.learner.policy.flat[1].clone()
    for _ in range(3):
        engine.step()
    engine.read()
    failed, fine = engine.outcomes
    assert (failed.status, failed.steps, fine.status, fine.steps) == ("failed", 256, "running", 640)
    assert failed.reason.startswith("numbers became infinite or NaN in the update after 256 env")
    assert all(torch.equal(x[0], before[k]) for k, x in engine.trainer.learner.state_dict().items())
    assert not torch.equal(engine.trainer.learner.policy.flat[1], moved)


@pytest.mark.parametrize(("field", "told"), [("reward", "reward"), ("observation", "observation")])
def test_what_the_environment_gave_is_told(field, told, monkeypatch):
    tensors_everywhere(monkeypatch)
    engine = program("actor-critic")
    simulator, bad = engine.program.lanes.simulator, torch.zeros(16)
    bad[8:] = float("nan")  # the lanes of the second seed
    step = simulator.advance

    def advance(action):
        x, final, reward, *rest = step(action)
        if field == "reward":
            return x, final, reward + bad, *rest
        return x + bad.unsqueeze(1), final, reward, *rest

    monkeypatch.setattr(simulator, "advance", advance)
    engine.step()
    engine.read()
    fine, failed = engine.outcomes
    assert (fine.status, failed.status) == ("running", "failed")
    assert failed.reason == f"the environment gave an infinite or NaN {told} after 0 env steps"


def test_a_trainer_goes_on_from_the_program_and_the_program_from_a_trainer(monkeypatch):
    tensors_everywhere(monkeypatch)
    whole = program("relax-network", iterations=9)
    whole.read()
    parts = program("relax-network", iterations=4)
    parts.read()
    parts.state()  # hands what it counted to the trainer
    middle = parts.trainer
    for _ in range(2):
        middle.learner.actor = lambda: lambda x: middle.learner.logits(x).detach()
        middle.step()
    last = Captured(middle, recorded=False)
    for _ in range(3):
        last.step()
    last.read()
    assert [plain(o) for o in last.outcomes] == [plain(o) for o in whole.outcomes]
    one, other = whole.state()[0], last.state()[0]
    assert all(torch.equal(x, other[key]) for key, x in one.items())


# ---------------------------------------------------------------------------- episodes, counted


def rollouts(generator, seeds=3, steps=37, lanes=5, ends=0.2):
    """Random flags and rewards; everything else is not looked at."""
    shape = seeds, steps, lanes
    reward = torch.randint(-3, 9, shape, generator=generator).to(torch.float32)
    flag = torch.rand((3, *shape), generator=generator)
    none = torch.zeros(1)
    return Rollout(
        torch.zeros(*shape, 1), none, none, none, none, reward,
        flag[0] < ends / 2, flag[1] < ends / 2, flag[2] < 0.9,
    )  # fmt: skip


@pytest.mark.parametrize("ends", [0.01, 0.2, 0.9])
def test_episodes_are_those_of_the_host(ends):
    generator = torch.Generator().manual_seed(1)
    host, tally = Episodes(3, 5), Tally(3, 5, WINDOW, 10**9, None, False)
    good = torch.ones(3, dtype=torch.bool)
    for number in range(12):
        rollout = rollouts(generator, ends=ends)
        host.add(rollout, False)
        tally.add(rollout, good)
        if number == 6:  # through a checkpoint
            state, tally = tally.given(), Tally(3, 5, WINDOW, 10**9, None, False)
            tally.take(state)
        for key, x in host.state().items():
            torch.testing.assert_close(tally.given()[key], x, rtol=0, atol=0, msg=key)
        means = torch.tensor([host.means(i) for i in range(3)], dtype=torch.float64).T
        torch.testing.assert_close(tally.means(), means, equal_nan=True)
    assert max(host.count) > 3 * WINDOW or ends < 0.9


def test_sums_start_anew_after_an_end():
    sums = torch.tensor([1.0, 3.0, 6.0, 10.0, 15.0]).view(1, 1, 5, 1)
    done = torch.tensor([False, True, False, True, False]).view(1, 5, 1)
    assert since_last_end(sums, done).flatten().tolist() == [1.0, 3.0, 3.0, 7.0, 5.0]


# ------------------------------------------------------------------------------ how it is recorded


class Recording:
    """Stands for ``torch.cuda.CUDAGraph``: a replay calls what was recorded."""

    replays = 0

    def replay(self):
        type(self).replays += 1
        self.action()


@pytest.fixture
def recorder(monkeypatch):
    """CUDA as far as ``Graphs`` uses it; what its graphs hold is for a GPU to show."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda stream: nullcontext(),
        graph_pool_handle=lambda: "pool",
    )

    def record(self, critic_steps, measure):
        graph, numbers = Recording(), {}
        graph.action = lambda: numbers.update(self.program(critic_steps, measure))
        return graph, numbers

    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(graphs.Graphs, "_record", record)
    monkeypatch.setattr(Recording, "replays", 0)


def test_recordings_are_kept_for_each_number_of_critic_steps(recorder, monkeypatch):
    tensors_everywhere(monkeypatch)
    flags = {"total_timesteps": 6 * 128, "anneal_steps": 6 * 128, "learning_rate_final": 0.0}
    flags["critic_steps"] = 4
    usual = program("relax", iterations=6, **flags)
    inner = trainer("relax", **flags)
    ours = Captured(inner)
    assert "captured as a CUDA graph" in ours.notes[-1]
    for number in range(6):
        numbers = ours.step(measure=number == 2)
        assert bool(numbers) == (number == 2)
    assert Recording.replays == 6
    assert {key[0] for key in ours.iterate.recorded} == {1, 2, 3, 4}
    usual.read(), ours.read()
    assert [plain(o) for o in ours.outcomes] == [plain(o) for o in usual.outcomes]
    one, other = usual.state()[0], ours.state()[0]
    assert all(torch.equal(x, other[key]) for key, x in one.items())


@pytest.mark.slow
def test_the_compiled_program_trains_alike():
    # As one piece without a break, or torch.compile refuses; a GPU has another backend.
    command = [sys.executable, Path(__file__).with_name("compiled.py"), "cpu", "aot_eager"]
    where = {**os.environ, "PYTHONPATH": str(Path(rlgrad.__file__).parent.parent)}
    done = subprocess.run(command, env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


# ------------------------------------------------------------------------------- when it is used


def test_why_an_iteration_cannot_be_captured():
    assert why_not(trainer("actor-critic")) == "there are no CUDA graphs on cpu"
    usual = trainer("actor-critic")
    assert captured(usual, "auto") is captured(usual, "off") is usual
    before = list(usual.notes)
    object.__setattr__(usual.options, "compile", True)
    captured(usual, "auto")
    assert usual.notes == [*before, "--compile has no effect: there are no CUDA graphs on cpu"]
    with pytest.raises(UsageError, match="--capture on, but there are no CUDA graphs on cpu; use"):
        captured(usual, "on")


def test_the_faster_device_is_chosen_and_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    one, many = Work(390, 32, 8, 4480), Work(390, 32, 4096, 4480)
    device, why = choose_device("auto", one)
    assert (device.type, why) == (
        "cpu",
        "about 2 s there and 7 s on the GPU by a model, not measured",
    )
    device, why = choose_device("auto", many)
    assert device.type == "cuda"
    assert why.endswith("s on the CPU by a model, not measured")
    assert choose_device("auto", None)[0].type == "cpu"
    assert choose_device("cuda", one) == (torch.device("cuda"), "as asked")
    # Neither whole episodes nor environments on the CPU are captured: what is asked of a GPU step
    # by step takes longer there, unless the networks are wide.
    assert choose_device("auto", Work(390, 500, 64, 4480, whole=True))[0].type == "cpu"
    assert choose_device("auto", Work(390, 32, 16, 4480, simulated=False))[0].type == "cpu"
    device, why = choose_device("auto", Work(390, 32, 256, 1 << 20, simulated=False))
    assert device.type == "cuda"
    assert why.endswith("s on the CPU by a model, not measured, beside stepping")
