"""The reproduction of the RELAX paper: its deliberate mistakes are those, and the script runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlgrad.estimators import build, noise

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from relax_arms import ARMS  # noqa: E402
from relax_paper import Control, PublicRelax, broadcast_advantage, public_sampler  # noqa: E402
from relax_protocol import Study  # noqa: E402
from reproduce_relax import merged, show  # noqa: E402

S, ROWS = 2, 6


def a_draw(rows=ROWS, seeds=S, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(seeds, rows, 1, 2, generator=generator, dtype=dtype)
    return build("reinforce", 1, 2, seeds=seeds).sample(logits, generator=generator)


def a_control(seeds=S, features=4):
    torch.manual_seed(1)
    control = Control(features, 2, seeds).double()
    with torch.no_grad():
        control.scale.fill_(2.0)
        control.log_temperature.fill_(-0.5)
        control.network.flat.add_(0.1)
    return control


def test_the_public_sampler_by_hand():
    p, e = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([0.9, 1.4]).double()
    found = public_sampler(p.log(), torch.tensor(0), e)
    top = 0.9 / 0.7  # exp(-z~) of the action; the right one is 0.9
    torch.testing.assert_close(found.neg().exp(), torch.tensor([top, 1.4 / 0.3 + top]).double())
    right = noise.relaxed_given_action(p.log().view(1, 2), torch.tensor([0]), e.view(1, 2))[0]
    torch.testing.assert_close(right.neg().exp(), torch.tensor([0.9, 1.4 / 0.3 + 0.9]).double())


def test_with_the_exact_sampler_the_public_form_is_the_packages():
    draw, control = a_draw(), a_control()
    value, x = torch.randn(S, ROWS).double(), torch.randn(S, ROWS, 4).double()
    weight = torch.ones(S, ROWS).double()
    weight[:, -2:] = 0
    ours = PublicRelax(1, 2, 4, S, control=control, exact=True)
    theirs = build("relax", 1, 2, 4, S, coupling="independent", control=control)
    u = theirs.gradient(draw, value, context=x)
    torch.testing.assert_close(ours.gradient(draw, value, context=x), u, rtol=0, atol=1e-12)
    wrong = PublicRelax(1, 2, 4, S, control=control)
    assert (wrong.gradient(draw, value, context=x) - u).abs().max() > 0.01
    given = {"context": x, "direction": torch.randn_like(u), "weight": weight}
    pairs = zip(
        ours.loss_gradients(draw, value, **given),
        theirs.loss_gradients(draw, value, **given),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


class Curved(torch.nn.Module):
    """A c that is neither linear in the choice nor alike in both actions."""

    def forward(self, z, context):
        y = z.softmax(-1)[..., 0, :]
        return (5 * y * y).sum(-1) + 3 * y[..., 0]


@pytest.mark.parametrize("exact", [True, False])
def test_the_public_sampler_is_biased_and_the_exact_one_is_not(exact):
    # Seed 2. |z| above 6 by luck: 2e-9; the bias is 18 standard errors, so below 10 as rarely.
    rows = 100_000
    logits = torch.tensor([1.0, 0.0]).double().expand(1, rows, 1, 2)
    generator = torch.Generator().manual_seed(2)
    draw = build("reinforce", 1, 2, seeds=1).sample(logits, generator=generator)
    estimator = PublicRelax(1, 2, 0, 1, control=Curved(), exact=exact)
    u = estimator.gradient(draw, torch.zeros(1, rows).double())[0, :, 0, 0]  # its mean should be 0
    z = abs(float(u.mean() / (u.std() / rows**0.5)))
    assert z < 6 if exact else z > 10


def test_the_public_a2c_sums_a_square():
    returns, value = torch.randn(1, 5, 1), torch.randn(1, 5, 1)
    weight = torch.tensor([1.0, 1, 1, 0, 0]).view(1, 5, 1)
    row, column = returns[0, :3, 0].numpy(), value[0, :3].numpy()  # [n] and [n, 1]
    square = (row - column) * np.ones(3)  # times the log-probabilities [n], then summed
    found = broadcast_advantage(returns, value, weight)[0, :, 0].numpy()
    np.testing.assert_allclose(found, [*square.sum(0), 0, 0], atol=1e-6)


def test_a_learner_trains_alike_in_any_company():
    settings = {name: [(1000, 0.01, 0.003)] for name in ("a2c", "relax-public")}
    alone = Study({"a2c": settings["a2c"]})
    company = Study({"relax": [(1001, 0.01, 0.01), (1002, 0.01, 0.01)], **settings})
    for study in (alone, company):
        study.run(4)
    np.testing.assert_array_equal(alone.returns[:, 0], company.returns[:, 2])
    assert torch.equal(alone.policy.flat[0], company.policy.flat[2])


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains(name):
    study = Study({name: [(1000, 0.01, 0.01)]})
    before = study.policy.flat.clone()
    own = [p.clone() for p in study.groups[name].estimator.parameters()]
    study.run(2)
    assert study.returns.shape == (2, 1)
    assert bool(study.policy.flat.isfinite().all())
    assert not torch.equal(before, study.policy.flat)
    after = study.groups[name].estimator.parameters()
    assert not own or any(not torch.equal(a, b) for a, b in zip(own, after, strict=True))


def test_runs_of_other_arms_are_kept_and_ratios_taken_anew(tmp_path):
    def row(arm, *episodes):
        return {"arm": arm, "episodes": list(episodes)}

    path = tmp_path / "found.json"
    first = merged({"arms": [row("relax", 100.0, 100.0)]}, [path])
    assert first["ratios"] == []
    path.write_text(json.dumps(first | {"seeds": [0, 1]}))
    both = merged({"arms": [row("a2c", 200.0, 200.0)], "equal": [row("relax", 50.0)]}, [path])
    assert [each["arm"] for each in both["arms"]] == ["a2c", "relax"]
    assert both["ratios"] == [{"arms": ["a2c", "relax"], "ratio": [2.0, 2.0, 2.0]}]
    assert both["equal_ratios"] == []
    assert both["seeds"] == [0, 1]


@pytest.mark.slow
def test_the_script_writes_what_it_shows(tmp_path, capsys):
    path, picture = tmp_path / "found.json", tmp_path / "found.png"
    command = [sys.executable, str(ROOT / "benchmarks" / "reproduce_relax.py")]
    flags = "--arms a2c,relax-public --seeds 1000-1001 --search-seeds 1002 "
    flags += "--episodes 3 --search-episodes 2 --at 2 --lanes 16 --states 4"
    files = ["--json", str(path), "--picture", str(picture)]
    made = subprocess.run([*command, *flags.split(), *files], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    found = json.loads(path.read_text())
    assert [row["arm"] for row in found["arms"]] == ["a2c", "relax-public"]
    for row in found["arms"]:
        assert row["episodes"] == [3.0, 3.0]
        assert row["solved"] == [False, False]
        assert row["mean"] == [3.0, 3.0, 3.0]
        assert len(found["search"][row["arm"]]["trials"]) == 9
    assert [row["rates"] for row in found["equal"]] == [[0.01, 0.01]] * 2
    ratios = found["ratios"] + found["equal_ratios"]
    assert [each["ratio"] for each in ratios] == [[1.0, 1.0, 1.0]] * 2
    assert {(row["arm"], row["episode"]) for row in found["variance"]} == {
        (row["arm"], 2) for row in found["arms"]
    }
    shares = [sum(row["parts"][k] for k in ("action", "trajectory", "state"))
              for row in found["variance"] if "parts" in row]  # fmt: skip
    assert shares == pytest.approx([1.0])
    assert picture.stat().st_size > 10_000
    show(found)
    assert capsys.readouterr().out in made.stdout
