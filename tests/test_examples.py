"""Every example runs for a moment, prints finite numbers, and is short enough to teach."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
pytest.importorskip("sklearn")
CASES = [
    "toy.py --steps 10",
    "vq_vae.py --steps 3 --quantiser nearest",
    "vq_vae.py --steps 3 --quantiser sampled",
    "hard_attention.py --steps 3",
    "linear_baseline.py",
    "discrete_vae.py --steps 2 --estimator rebar --latents 5 --categories 4",
]


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("command", CASES)
def test_example_runs(command, examples, monkeypatch, capsys):
    name, *options = command.split()
    monkeypatch.setattr("sys.argv", [name, *options])
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    output = capsys.readouterr()
    assert output.err == ""
    assert len(re.findall(r"-?\d+\.\d+", output.out)) >= 2
    assert "nan" not in output.out


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_example_is_short_and_is_run_here(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert any(case.startswith(path.name) for case in CASES)


def test_every_estimator_of_the_vae_learns(examples):
    import discrete_vae

    for name in discrete_vae.ESTIMATORS:
        curve = discrete_vae.train(name, (4, 2), 60, seed=0)
        assert curve[-1][1] > curve[0][1], name
        assert -45 < curve[-1][1] < -15, name


def test_the_bound_is_a_bound_and_its_kl_is_exact(examples):
    # With 2 latents log p(x) itself is a sum of 4 terms, and the bound lies below it by
    # KL(q || posterior), which is also a sum.
    import discrete_vae
    import torch

    torch.manual_seed(0)
    x = discrete_vae.digits()[:50]
    vae = discrete_vae.VAE(2, 2, x.mean(0))
    with torch.no_grad():
        vae.prior.normal_()
        log_q, log_p = vae.logits(x).log_softmax(-1), vae.prior.log_softmax(-1)
        joint, q = [], []
        for a in range(2):
            for b in range(2):
                hot = torch.eye(2)[[a, b]].expand(50, 2, 2)
                joint.append(vae.likelihood(x)(hot) + log_p[0, a] + log_p[1, b])
                q.append(log_q[:, 0, a] + log_q[:, 1, b])
        joint, q = torch.stack(joint), torch.stack(q)
        log_marginal = joint.logsumexp(0)
        gap = (q.exp() * (q - (joint - log_marginal))).sum(0)
        likelihood = torch.stack([vae.likelihood(x)(torch.eye(2)[[a, b]].expand(50, 2, 2))
                                  for a in range(2) for b in range(2)])  # fmt: skip
        bound = (q.exp() * likelihood).sum(0) - vae.kl(vae.logits(x))
    torch.testing.assert_close(bound, log_marginal - gap, rtol=1e-4, atol=1e-4)
    sampled = vae.bound(x, 400, torch.Generator().manual_seed(1))
    assert abs(sampled - float(bound.mean())) < 0.5


def test_relax_of_the_vae_is_the_sum_of_its_parts(examples):
    # Against RELAX with the whole c = eta f(softmax_tau z) + r(z, x), at the same draw.
    import discrete_vae
    import torch

    from rlgrad.estimators import build, one_hot

    torch.manual_seed(0)
    rebar, rest = discrete_vae.members("relax", (3, 2))
    with torch.no_grad():
        rest.control.network.flat.normal_()

    weights = torch.randn(3, 2)

    def f(choice):
        return (choice * weights).sum((-2, -1)).square()

    class Whole(torch.nn.Module):
        def forward(self, z, context):
            relaxed = (z / rebar.temperature.detach()).softmax(-1)
            return rebar.eta.detach().squeeze() * f(relaxed) + rest.control(z, context)

    whole = build("relax", 3, 2, context=64, control=Whole())
    logits, x = torch.randn(20, 3, 2), torch.randn(20, 64)
    draw = whole.sample(logits)
    value = f(one_hot(draw))
    parts = rebar.gradient(draw, value, f=f) + rest.gradient(draw, 0 * value, context=x)
    torch.testing.assert_close(parts, whole.gradient(draw, value, context=x), rtol=1e-4, atol=1e-4)
