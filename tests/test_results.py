"""The results page says what was measured, what was not, and who keeps up with whom."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import results_page  # noqa: E402
import results_table  # noqa: E402


def row(agent, value, cpu=2.0):
    return {
        "agent": agent,
        "peer": agent.startswith("sb3-"),
        "seeds": 10,
        "iqm": {"value": value, "low": value - 5.0, "high": value + 5.0},
        "argmax": {"value": value + 1.0},
        "reached": 3,
        "cpu_seconds": cpu,
    }


def table(*rows, steps=1000):
    told = {"steps": steps, "seeds": "0-9", "episodes": 100, "random": -7.0, "left_out": {}}
    return {**told, "agents": list(rows)}


@pytest.mark.parametrize(("ours", "where"), [(96.0, "is not below"), (94.0, "is below")])
def test_an_environment_is_judged_by_the_interval_of_a2c(ours, where):
    found = table(row("relax", ours), row("rebar", 1.0), row("sb3-a2c", 100.0, cpu=30.0))
    told = results_page.section("X-v0", found, "images/x.png")
    assert f"`relax`, {where} A2C" in told
    assert "A2C takes 15 times its CPU-seconds" in told
    places = [told.index(f"| `{agent}` |") for agent in ("sb3-a2c", "relax", "rebar")]
    assert places == sorted(places)  # best first
    assert "nothing is compared" in results_page.verdict(table(row("relax", ours)))


def test_the_page_names_what_is_not_measured():
    found = {"X-v0": table(row("relax", 1.0))}
    efforts = {"X-v0": {"relax": {"tuned_trials": 20, "seeds": "1000-1009"}, "rebar": {}}}
    told = results_page.page(found, ["X-v0", "Y-v0"], ["relax", "rebar"], efforts, {})
    assert "* X-v0: not `rebar`\n" in told
    assert "* Y-v0: no agent yet\n" in told
    assert "| X-v0 | `relax` | 20 | 1000-1009 | not kept |" in told
    assert "* X-v0: `rebar`\n" in told
    assert "Not measured" not in results_page.page(found, ["X-v0"], ["relax"], {}, {})
    assert "Nothing is measured" in results_page.page({}, ["X-v0"], ["relax"], {}, {})


def test_a_later_call_keeps_the_rows_of_agents_that_it_leaves_out():
    old, new = table(row("relax", 1.0), row("rebar", 2.0)), table(row("relax", 3.0))
    both = results_table.merged(new, old)
    assert [(r["agent"], r["iqm"]["value"]) for r in both["agents"]] == [
        ("relax", 3.0),
        ("rebar", 2.0),
    ]
    assert results_table.merged(new, None) == new
    assert results_table.merged(new, table(row("rebar", 2.0), steps=5)) == new


def test_columns_are_as_many_everywhere():
    found = {"X-v0": table(row("relax", 1.0), row("sb3-a2c", 2.0))}
    lines = results_page.markdown(found).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 4
