"""The example report of the documentation: six agents and two peers, 20 seeds each, on CartPole-v1.

    python benchmarks/example_report.py       # about a quarter of an hour on two cores

Runs `rlgrad compare` as anyone would, into ./runs, and copies what it leaves behind to
docs/report/ (the page and its tables) and docs/images/compare.png. Prints the table of the README,
with CPU-seconds to solve as ratios to the last peer's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AGENTS = "reinforce,reinforce-constant,reinforce-learned,actor-critic,rebar,relax,sb3-a2c,sb3-ppo"
FILES = ("report.html", "comparison.json", "agents.csv", "seeds.csv")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report"
        done = subprocess.run(
            [sys.executable, "-m", "rlgrad", "compare", "CartPole-v1", "--agents", AGENTS,
             "--seeds", "20", "-n", "100000", "--alone", "--output", str(output), "--json"],
            check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        report = ROOT / "docs" / "report"
        report.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copyfile(output / name, report / name)
        shutil.copyfile(output / "curves-seconds.png", ROOT / "docs" / "images" / "compare.png")
    rows = json.loads(done.stdout)["summaries"]

    def seconds(row: dict, kind: str) -> float | None:
        return (row[f"seconds_{kind}"] or {}).get("value")

    peer = seconds(rows[-1], "alone")
    print("| agent | return, IQM (95 %) | solved | env steps to solve | faster, together | alone |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        iqm, steps = row["iqm"], row["steps_to_solve"]["value"]
        median = "-" if steps is None else f"{steps:,.0f}"
        faster = [
            f"{peer / x:.1f}" if peer and (x := seconds(row, kind)) else "-"
            for kind in ("together", "alone")
        ]
        print(
            f"| `{row['agent']}` | {iqm['value']:.1f} ({iqm['low']:.1f}-{iqm['high']:.1f}) "
            f"| {row['solved']} of {row['seeds']} | {median} "
            f"| {' | '.join(faster)} |"
        )


if __name__ == "__main__":
    main()
