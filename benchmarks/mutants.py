"""Small faults put into `rlgrad/returns.py` and `rlgrad/estimators/`: how many do the tests find?

    pip install -e '.[dev,mutants]'
    python benchmarks/mutants.py                    # all of returns.py, 200 of the estimators
    python benchmarks/mutants.py --work /tmp/mutants --sample 400    # goes on where it was stopped
    python benchmarks/mutants.py --files rlgrad/returns.py rlgrad/estimators/exact.py
    python benchmarks/mutants.py --print-only       # the recorded figures

Faults (mutants) are mutmut's: another operator, number, argument, constant or condition in a
function's body. Judges are the tests in ``[tool.mutmut]`` of pyproject.toml: those of the two parts
that compare numbers with numbers, not means of samples with expectations. A mutant gets those that
reach its function, quickest first, up to a fifth of all their time, and counts as killed if one of
them fails or runs into mutmut's time limit. Of the estimators' mutants, the first of a random order
are tried, whose seed is written into the result. Works on a copy of the tracked files. Writes
benchmarks/results/mutants.json, with the difference that each survivor makes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RETURNS, ESTIMATORS = Path("rlgrad/returns.py"), Path("rlgrad/estimators")
SEED = 20_261_121
SHARE = 0.2
"""Of the time of all judges, what one mutant may take."""
MUTMUT = str(Path(sys.executable).with_name("mutmut"))
KILLED = ("killed", "timeout", "segfault")


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Quickest tests first, and no more of them than one mutant may take (as a pytest plugin)."""
    stats = Path("mutmut-stats.json")
    if not stats.exists():  # mutmut is just measuring
        return
    seconds = json.loads(stats.read_text("utf-8"))["duration_by_test"]
    items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
    left, kept = SHARE * sum(seconds.values()), 0
    for item in items:
        left -= seconds.get(item.nodeid, 0.0)
        kept += left > 0
    del items[max(kept, 1) :]


def copy(work: Path) -> None:
    """The tracked files, as they are now, in a new folder; an old one stays as it is."""
    if (work / "pyproject.toml").exists():
        return
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes((ROOT / name).read_bytes())


def all_mutants(work: Path, files: list[Path]) -> dict[str, list[str]]:
    """Names of all mutants of each part, in the order of files and lines."""
    os.chdir(work)
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    parts: dict[str, list[str]] = {}
    for path in files or [RETURNS, *sorted(ESTIMATORS.glob("*.py"))]:
        names = mutate_file_contents(str(path), path.read_text("utf-8")).mutant_names
        part = ESTIMATORS if not files and path.parent == ESTIMATORS else path
        parts.setdefault(str(part), []).extend(get_mutant_name(path, name) for name in names)
    return parts


def outcomes(work: Path) -> dict[str, str]:
    """What became of the mutants that were tried, by mutmut's words."""
    from mutmut.stats import status_by_exit_code

    codes: dict[str, int | None] = {}
    for path in work.glob("mutants/**/*.meta"):
        codes |= json.loads(path.read_text("utf-8"))["exit_code_by_key"]
    return {name: status_by_exit_code[code] for name, code in codes.items() if code is not None}


def try_out(names: list[str], work: Path, jobs: int) -> None:
    """Let mutmut judge these."""
    given = {"PYTHONPATH": str(HERE), "PYTEST_ADDOPTS": "-p mutants"}
    command = [MUTMUT, "run", "--max-children", str(jobs), *names]
    subprocess.run(command, cwd=work, env={**os.environ, **given}, check=True)


def difference(name: str, work: Path) -> list[str]:
    """The lines that a mutant takes away and puts in."""
    shown = subprocess.run(
        [MUTMUT, "show", name], cwd=work, capture_output=True, check=True, text=True
    ).stdout
    body = shown.partition("@@")[2].splitlines()
    return [line[0] + " " + line[1:].strip() for line in body if line[:1] in ("-", "+")]


def interval(killed: int, tried: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share in a sample; without a sample there is nothing to say."""
    if tried == of:
        return killed / tried, killed / tried
    z, p = 1.96, killed / tried
    centre, width = (
        p + z * z / (2 * tried),
        z * math.sqrt(p * (1 - p) / tried + (z / tried) ** 2 / 4),
    )
    return (centre - width) / (1 + z * z / tried), (centre + width) / (1 + z * z / tried)


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Try mutants of all parts; the record that is written."""
    copy(work)
    parts = all_mutants(work, given.files)
    chosen = {name: list(mutants) for name, mutants in parts.items()}
    if not given.files:
        random.Random(SEED).shuffle(chosen[str(ESTIMATORS)])
        del chosen[str(ESTIMATORS)][given.sample :]
    wanted = [name for names in chosen.values() for name in names]
    known = outcomes(work)
    if missing := [name for name in wanted if name not in known]:
        try_out(missing, work, given.jobs)
    found = outcomes(work)
    record: dict[str, Any] = {"seed": SEED, "share": SHARE, "parts": {}}
    for part, names in chosen.items():
        survivors = sorted(name for name in names if found[name] not in KILLED)
        record["parts"][part] = {
            "mutants": len(parts[part]),
            "tried": len(names),
            "outcomes": dict(Counter(found[name] for name in names)),
            "survivors": {name: difference(name, work) for name in survivors},
        }
    return record


def show(record: dict[str, Any]) -> None:
    """Print a record as a table."""
    print("| part | mutants | tried | killed | 95 % interval |\n| --- | --- | --- | --- | --- |")
    for name, part in record["parts"].items():
        killed = sum(part["outcomes"].get(kind, 0) for kind in KILLED)
        low, high = interval(killed, part["tried"], part["mutants"])
        between = f"{low:.1%} to {high:.1%}" if low < high else "all were tried"
        share = f"{killed / part['tried']:.1%}"
        print(f"| `{name}` | {part['mutants']} | {part['tried']} | {share} | {between} |")


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--sample", type=int, default=200, help="mutants of the estimators to try")
    parser.add_argument("--files", type=Path, nargs="+", default=[], help="all mutants of these")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--work", type=Path, help="folder for the copy, kept (default: temporary)")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "mutants.json")
    parser.add_argument("--print-only", action="store_true", help="print the recorded result")
    given = parser.parse_args()
    path = given.results.resolve()
    if not given.print_only:
        with tempfile.TemporaryDirectory() as temporary:
            work = given.work.resolve() if given.work else Path(temporary)
            record = run(given, work)
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    show(json.loads(path.read_text("utf-8")))


if __name__ == "__main__":
    main()
