"""The package with the oldest and the newest releases of what it needs, each in a venv of its own.

    python tests/matrix.py                                  # both columns, some minutes each
    python tests/matrix.py --columns oldest --torch 2.13.0  # all else at its minimum

oldest: every direct dependency at the minimum that pyproject.toml states; newest: what pip gives
today. In each: pip installs the package, `pip check`, a quick part of the tests, and a short
training by the command line. Prints a table; the status is 1 where anything failed. A torch from
the registry brings gigabytes of CUDA packages: `--torch` names another release for both columns.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("torch", "gymnasium", "numpy", "stable-baselines3")
TOOLS = ("pytest", "hypothesis", "beartype")
TESTS = (
    "test_returns", "test_score", "test_muprop", "test_networks", "test_streams", "test_lanes",
    "test_simulators", "test_cards", "test_training", "test_peers",
)  # fmt: skip
TRAIN = ("train", "CartPole-v1", "--estimator", "relax", "-n", "2048")


def minima() -> dict[str, str]:
    """Direct dependencies with the oldest release that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    stated = (re.fullmatch(r"([\w-]+)>=([\w.]+)", each) for each in project["dependencies"])
    return {match[1]: match[2] for match in stated if match}


def pins(column: str, torch: str | None) -> list[str]:
    """pip's constraints for a column."""
    wanted = minima() if column == "oldest" else {}
    if torch:
        wanted["torch"] = torch
    return [f"{name}=={version}" for name, version in wanted.items()]


class Column:
    """A venv with the package in it.

    Args:
        folder: for the venv and what is made in it.
        constraints: pip's.
    """

    def __init__(self, folder: Path, constraints: list[str]) -> None:
        self.folder, self.results = folder, dict[str, str]()
        self.python = folder / "venv" / "bin" / "python"
        (folder / "constraints.txt").write_text("\n".join(constraints))
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)

    def step(self, name: str, *arguments: str) -> bool:
        """Run Python in the venv; keep the last line of what it says."""
        plain = {k: x for k, x in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env={**plain, "PIP_CONSTRAINT": str(self.folder / "constraints.txt")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        (self.folder / f"{name.replace(' ', '-')}.log").write_text(done.stdout)
        last = next(iter(done.stdout.strip().splitlines()[::-1]), "")
        self.results[name] = "ok" if done.returncode == 0 else f"FAILED: {last}"
        return done.returncode == 0

    def run(self) -> None:
        """All steps; nothing is tried after an installation that failed."""
        pip = ("-m", "pip", "--disable-pip-version-check")
        if not self.step("install", *pip, "install", "--quiet", f"{ROOT}[contrib]", *TOOLS):
            return
        listed = subprocess.run(
            [self.python, *pip, "list", "--format=freeze"], capture_output=True, text=True
        )
        versions = dict(line.split("==", 1) for line in listed.stdout.split() if "==" in line)
        known = {name.lower().replace("_", "-"): version for name, version in versions.items()}
        self.results |= {name: known.get(name, "-") for name in SHOWN}
        self.step("pip check", *pip, "check")
        tests = [str(ROOT / "tests" / f"{name}.py") for name in TESTS]
        quick = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
        quick += ["-o", "filterwarnings=default"]  # what old releases say of each other
        self.step("tests", "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *quick, *tests)
        self.step("train", "-m", "rlgrad", *TRAIN)


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--columns", default="oldest,newest")
    parser.add_argument("--torch", help="release of torch, such as 2.13.0, for all columns")
    parser.add_argument("--keep", type=Path, help="new folder for venvs and logs, kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place, columns = given.keep or Path(temporary), {}
        for name in given.columns.split(","):
            (place / name).mkdir(parents=True)
            columns[name] = Column((place / name).resolve(), pins(name, given.torch))
            columns[name].run()
    rows = ["install", *SHOWN, "pip check", "tests", "train"]
    print(f"| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for row in rows:
        cells = " | ".join(column.results.get(row, "-") for column in columns.values())
        print(f"| {row} | {cells} |")
    return int(any("FAILED" in x for each in columns.values() for x in each.results.values()))


if __name__ == "__main__":
    sys.exit(main())
