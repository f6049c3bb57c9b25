"""Mutated cards and run directories: only clean errors come of them, and nothing else.

    python tests/fuzz.py --count 10000 --seed 0

Each case copies a small run, or takes a card of the package, changes it in one to three ways, and
gives it to one reader. A fault is any other exception than ``UsageError``, a write outside the
run's folder, a process started, a module of the stranger's imported, more than 2 GiB of address
space beyond the start's, or a case that takes longer than a minute of this process's time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mutations
import torch

import rlgrad
from rlgrad import card_files, cards, listing, store
from rlgrad.cli import main
from rlgrad.comparison.gathering import from_paths
from rlgrad.errors import UsageError
from rlgrad.lab import freeze
from rlgrad.resuming import resume

LONGEST = 60.0
# Bytecode, and what Gymnasium's worker processes share.
IGNORED = re.compile(r"__pycache__|^/dev/shm/pym-")
# What bending a file raises where an earlier bend left nothing that could be bent.
GONE = (OSError, ValueError, LookupError, TypeError, StopIteration, RuntimeError, MemoryError)
SPACE = 2 << 30
SMALL = {
    "num_envs": 2, "num_steps": 16, "hidden": (8,), "max_episode_steps": 23, "quiet": True,
    "total_timesteps": 96, "eval_episodes": 10, "log_freq": 32, "save_freq": 32,
}  # fmt: skip
PEER = {k: v for k, v in SMALL.items() if k not in ("num_envs", "num_steps", "hidden")}


class HungError(BaseException):
    """A case took too long."""


class Guard:
    """Watches what the interpreter does: writes outside a folder, processes, a stranger's code."""

    WRITES = (
        "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink",
        "os.chmod", "shutil.rmtree",
    )  # fmt: skip

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
            self.seen.append(f"{event} {arguments[:1]}")
        elif event == "import" and "stranger" in str(arguments[0]):
            self.seen.append(f"import {arguments[0]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and isinstance(path, (str, bytes, os.PathLike)):
                self.check(f"open {mode}", path)
        elif event in self.WRITES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                # Names are removed and renamed, not what they lead to.
                self.check(event, path, last=event == "os.truncate")

    def check(self, event: str, path: Any, last: bool = True) -> None:
        if isinstance(path, int):
            return
        full = os.path.abspath(os.fsdecode(path))
        real = os.path.realpath(full) if last else os.path.realpath(os.path.dirname(full))
        inside = (Path(real) / "").is_relative_to(self.folder)  # type: ignore[arg-type]
        if not inside and real not in ("/dev/null", "/dev/tty") and not IGNORED.search(full):
            self.seen.append(f"{event} {full}")

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[list[str]]:
        """Note what happens outside a folder."""
        self.seen, self.folder = [], Path(os.path.realpath(folder))
        try:
            yield self.seen
        finally:
            self.folder = None


GUARD = Guard()


def corpus(folder: Path) -> list[Path]:
    """Small runs: on a simulator, on Gymnasium's environment, and of a peer; kept if they exist."""
    named = [folder / name for name in ("simulated", "played", "peer")]
    if folder.exists():
        return named
    folder.mkdir(parents=True)
    runs = [
        rlgrad.train("CartPole-v1", "relax", seeds="1000,1001", log_dir=str(folder), **SMALL),
        rlgrad.train(
            "CartPole-v1", "actor-critic", seeds="1000,1001", vec="sync", log_dir=str(folder),
            **SMALL,
        ),
        rlgrad.train("CartPole-v1", "sb3-a2c", seeds=[1000], log_dir=str(folder), **PEER),
    ]  # fmt: skip
    for run, path in zip(runs, named, strict=True):
        run.path.rename(path)
    return named


def _long(run: Path) -> bool:
    """Whether a card asks for more training than a case has time for, as it may."""
    return store.read_run(run).config.total_timesteps > 10_000


def _resumed(run: Path, rng: random.Random) -> None:
    if _long(run):
        return
    resume(run, rng.choice([None, 128]), quiet=True, eval_episodes=1)


def _command(*words: str) -> None:
    """The command line prints one line and no traceback."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = main(words)
    if status == 2:
        lines = [line for line in err.getvalue().splitlines() if line.startswith("rlgrad: ")]
        assert len(lines) == 1, err.getvalue()
        raise UsageError(lines[0])
    assert status in (0, 1), (status, err.getvalue())


def _stored(run: Path) -> None:
    path = max((run / "checkpoints").glob("*.safetensors"), default=run / "checkpoints" / "none")
    freeze.stored(freeze.run_of(path), path)


def _read(run: Path) -> None:
    found = store.read_run(run)
    found.metrics(), found.result()


READERS: dict[str, Callable[[Path, random.Random], object]] = {
    "load": lambda run, rng: rlgrad.load(run, which=rng.choice(["last", "best", 96])),
    "read": lambda run, rng: _read(run),
    "resume": _resumed,
    "evaluate": lambda run, rng: _command("evaluate", str(run), "--episodes", "1", "--json"),
    "resume command": lambda run, rng: (
        _long(run) or _command("resume", str(run), "--quiet", "-n", "100")
    ),
    "compare": lambda run, rng: from_paths([run]),
    "variance": lambda run, rng: _stored(run),
}
USED = {"load": 3, "read": 2, "resume": 4, "evaluate": 1, "resume command": 1, "compare": 3,
        "variance": 1}  # fmt: skip


def card_case(rng: random.Random, folder: Path, known: list[Path]) -> tuple[str, Callable[[], Any]]:
    """A changed card in the working directory, and what reads it."""
    source = rng.choice(known)
    kind = source.parent.name
    (folder / kind).mkdir(parents=True)
    path = folder / kind / source.name
    shutil.copy(source, path)
    bend = rng.choice([mutations.bend_toml, mutations.bend_toml, mutations.bend_file])
    what = bend(rng, path)
    if rng.random() < 0.05:
        what = f"{path.name} {mutations._fill(path, folder.parent / 'outside', rng.randrange(12))}"

    def read() -> None:
        if rng.random() < 0.1:
            _command("list", kind)
        elif kind == "agents":
            card_files.read_agent(path)
            cards.resolve("CartPole-v1", path.stem)
        else:
            cards.resolve(card_files.read_env(path).id, "relax")
            listing.envs()

    return f"{kind}/{what}", read


def run_case(rng: random.Random, folder: Path, runs: list[Path]) -> tuple[str, Callable[[], Any]]:
    """A changed run, and what reads it."""
    source = rng.choices(runs, [5, 4, 1])[0]
    run = folder / "run"
    shutil.copytree(source, run)
    outside = folder.parent / "outside"
    what = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        with contextlib.suppress(*GONE):
            what.append(
                mutations.mutate(rng, run, outside, runs)
            )  # what was bent before may be gone
    name = rng.choices(list(USED), list(USED.values()))[0]
    return f"{source.name}, {name}: {'; '.join(what)}", lambda: READERS[name](run, rng)


def _hung(number: int, frame: object) -> None:
    raise HungError


def prepared(sandbox: Path) -> Path:
    """A folder outside all runs, with a file in it."""
    outside = sandbox / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir()
    (outside / "file").write_text("mine\n")
    return outside


def one(
    rng: random.Random, sandbox: Path, known: list[Path], runs: list[Path]
) -> tuple[str, str, str]:
    """(what was changed, the outcome, what is wrong about it; empty: nothing) of a case."""
    outside, folder = prepared(sandbox), sandbox / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    of_card = rng.random() < 0.25
    case = card_case(rng, folder, known) if of_card else run_case(rng, folder, runs)
    what, read = case
    outcome, wrong = "read", ""
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        with GUARD.over(folder) as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except UsageError as error:
        outcome = "refused"
        if "\n" in str(error) or len(str(error)) > 5000:
            wrong = f"the message is no line: {str(error)[:300]!r}"
    except BaseException:
        wrong = traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if seen:
        wrong += f"\nit did {seen}"
    left = {path.name: path.read_bytes() for path in outside.iterdir()}
    if left != {"file": b"mine\n"}:
        wrong += f"\noutside there is now {left}"
    return what, outcome, wrong


def fuzz(
    count: int, seed: int, sandbox: Path, made: Path, say: Callable[[str], None]
) -> tuple[Counter[str], list[str]]:
    """(outcomes of so many cases, faults)."""
    runs, before = corpus(made), Path.cwd()
    known = sorted(path for kind in ("agents", "envs") for path in card_files.find(kind).values())
    for source in runs:  # what is imported and set up at first use is nobody's fault
        for name in ("load", "compare", "evaluate"):
            READERS[name](source, random.Random(0))
    signal.signal(signal.SIGPROF, _hung)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, limits[1]))
    outcomes: Counter[str] = Counter()
    faults = []
    slowest = 0.0
    try:
        for i in range(count):
            began = time.process_time()
            what, outcome, wrong = one(random.Random(f"{seed} {i}"), sandbox, known, runs)
            spent = time.process_time() - began
            outcomes[outcome] += 1
            if spent > slowest:
                slowest = spent
                say(f"case {i}: {spent:.2f} s: {what}")
            if wrong:
                faults.append(f"case {i}: {what}\n{wrong}")
                say(faults[-1])
            if i % 500 == 499:
                say(f"{i + 1} cases, {dict(outcomes)}, {len(faults)} faults")
    finally:
        os.chdir(before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    return outcomes, faults


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="folder of the runs, made if missing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as sandbox:
        made = (given.corpus or Path(sandbox) / "corpus").absolute()
        outcomes, faults = fuzz(
            given.count, given.seed, Path(sandbox), made, lambda line: print(line, flush=True)
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{given.count:,} cases: {outcomes['refused']:,} refused, {outcomes['read']:,} read, "
        f"{len(faults)} faults; at most {peak:.1f} GiB of memory"
    )
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(command())
