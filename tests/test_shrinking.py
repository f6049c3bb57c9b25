"""Seeds that are done leave the batch; what is left of a run is as if they had not."""

from __future__ import annotations

import pytest
import torch
from kept_runs import Dying, KilledError, same

import rlgrad
from rlgrad import shrinking, store, training
from rlgrad.cards import resolve
from rlgrad.options import Options
from rlgrad.resuming import restart
from rlgrad.trainer import Trainer

torch.set_num_threads(1)
SEEDS = range(3100, 3106)
SMALL = {"num_envs": 4, "num_steps": 32, "hidden": (8,), "total_timesteps": 4_000}
# Ends at a mean return of 23, which some seeds reach and others do not.
EASY = dict(SMALL, stop_when_solved=True, log_freq=200, eval_episodes=2)
WHOLE = {"num_envs": 2, "hidden": (8,), "total_timesteps": 300, "eval_episodes": 2}


@pytest.fixture
def easy(tmp_path, monkeypatch):
    """A card of CartPole-v1 that counts as solved early, in the working directory."""
    (tmp_path / "envs").mkdir()
    card = (
        'id = "CartPole-v1"\nsummary = "easy"\nsimulator = "rlgrad/CartPole-v1"\nsolved_at = 23.0\n'
    )
    (tmp_path / "envs" / "CartPole-v1.toml").write_text(card)
    monkeypatch.chdir(tmp_path)


def _left(run):
    """(outcomes, rows without seconds, tensors of every seed) that a run leaves."""
    tensors = store.load_checkpoint(run.checkpoints()[-1])[0]
    rows = [{k: v for k, v in r.items() if not k.startswith("time/")} for r in run.metrics()]
    seeds = [{k: v for k, v in s.items() if "seconds" not in k} for s in run.result()["seeds"]]
    return seeds, rows, tensors


def _parameters(tensors):
    return {k: x for k, x in tensors.items() if not k.startswith(("lanes.", "episodes."))}


def _train(monkeypatch, agent, shrinks, **settings):
    sizes = []
    shrink = shrinking.Shrinking._shrink

    def counted(self):
        shrink(self)
        sizes.append(len(self.rows))

    with monkeypatch.context() as patch:
        patch.setattr(shrinking.Shrinking, "_shrink", counted)
        if not shrinks:
            patch.setattr(shrinking.Shrinking, "_due", lambda self: False)
        run = rlgrad.train("CartPole-v1", agent, seeds=SEEDS, quiet=True, **settings)
    return _left(run), sizes


@pytest.mark.parametrize(
    ("agent", "settings"), [("relax", EASY), ("rebar", EASY), ("reinforce-learned", WHOLE)]
)
def test_what_is_left_is_as_in_the_company_of_all(agent, settings, easy, monkeypatch):
    (seeds, rows, tensors), sizes = _train(monkeypatch, agent, True, **settings)
    (wanted, wanted_rows, all_along), none = _train(monkeypatch, agent, False, **settings)
    assert not none
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes) > 1
    assert len({seed["steps"] for seed in seeds}) > 2
    assert seeds == wanted
    assert rows == wanted_rows
    assert tensors.keys() == all_along.keys()
    assert {k: x.shape for k, x in tensors.items()} == {k: x.shape for k, x in all_along.items()}
    for name, x in _parameters(all_along).items():
        assert torch.equal(tensors[name], x), name


def test_a_run_that_is_killed_goes_on_to_the_same_bits(easy):
    """Environments and episode counts too: each seed's are left where it ended."""
    whole = rlgrad.train("CartPole-v1", "relax", seeds=SEEDS, quiet=True, **EASY)
    steps = sorted(seed["steps"] for seed in whole.result()["seeds"])
    options = {"stop_when_solved": True, "log_freq": 200, "eval_episodes": 2, "save_freq": 256}
    resolved = resolve("CartPole-v1", "relax", None, dict(SMALL))
    halfway = (steps[1] + steps[-2]) // 2 // 128
    session = training.start(resolved, list(SEEDS), Options(quiet=True, **options), Dying(halfway))
    with pytest.raises(KilledError):
        session.go()
    assert len(session.trainer.rows) < len(SEEDS)
    going = restart(session.run.path)
    going.go()
    seeds, rows, tensors = _left(going.run)
    wanted, wanted_rows, all_along = _left(whole)
    assert (seeds, rows) == (wanted, wanted_rows)
    same(tensors, all_along)


def test_one_seed_and_gymnasium_s_environments_stay_as_they_are(easy):
    one = Trainer(resolve("CartPole-v1", "relax"), [1], Options())
    other = Trainer(resolve("CartPole-v1", "relax"), [1, 2], Options(vec="sync"))
    for trainer in (one, other):
        assert shrinking.shrinking(trainer) is trainer
        trainer.close()
