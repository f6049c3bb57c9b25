"""The package as a whole: what a user installs, which module may import which, how big it is."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import rlgrad

PACKAGE = Path(rlgrad.__file__).parent
ROOT = Path(__file__).parent.parent
CARDS = (
    "actor-critic", "rebar", "reinforce", "reinforce-learned", "relax", "relax-network", "sb3-a2c",
    "sb3-ppo",
)  # fmt: skip

# A module may import modules of earlier rows; in its own row only what SIDEWAYS lists. This is the
# table of docs/design.md with the modules of today: later work adds its row here first.
ROWS = [
    ["allocator", "ambient", "bootstrap", "captured", "checking.findings", "clock", "cluster",
     "comparison", "comparison.process", "doctor", "doctor.features", "drawing", "errors",
     "estimators.arrays", "estimators.checks", "estimators.layers", "estimators.noise",
     "estimators.pooling", "estimators.traits", "exporting", "framing", "helptexts", "lab",
     "lab.parts", "naming", "peers", "plain_data", "ranks", "signals", "simulators.arrays",
     "simulators.single", "streams", "tuning", "tuning.records", "versions", "watching"],
    ["actions", "adam", "atari", "checking.forms", "cluster.address", "config", "estimators.base",
     "estimators.passes", "estimators.statistics", "extras", "hanging", "infos", "lab.split_result",
     "last_good", "output", "page", "pooled", "ranks.launch", "ranks.shares", "reading", "returns",
     "rows", "seeded", "simulators.dynamics", "simulators.registration", "simulators.starts",
     "stats", "terminal", "tuning.figures"],
    ["action_names", "agent", "arguments", "checking.playing", "chunk", "cluster.joining", "cores",
     "display", "dots", "engine", "estimators.least_squares", "estimators.multisample",
     "estimators.networks", "estimators.objective", "estimators.relaxation", "estimators.score",
     "finding", "forms", "info_notes", "locking", "log", "masking", "options", "peer_cards",
     "ranks.group", "report", "schedule", "simulators", "simulators.base", "tuning.results"],
    ["card_files", "checking.rules", "checking.watch", "checkpoints", "cluster.mirror",
     "estimators.columns", "estimators.control", "estimators.convolution", "estimators.exact",
     "estimators.learned", "estimators.measure", "estimators.muprop", "estimators.rebar",
     "estimators.relaxed", "lab.moments", "normalise", "plots", "ranks.pool", "ranks.telling",
     "simulators.acrobot", "simulators.cartpole", "simulators.mountaincar", "simulators.probes",
     "workers"],
    ["acting", "cards", "checking.replays", "chunked", "cluster.attempts", "cluster.node",
     "estimators.all_action", "estimators.linear", "estimators.relax", "images", "pullback",
     "store", "tuning.writing"],
    ["best", "checking.vector", "cluster.bridge", "creating", "critics", "diagnostics",
     "estimators.build", "exporting.graph", "lanes", "saving", "vectorising"],
    ["checking", "descent", "estimators", "exporting.checking", "make", "places", "rollout",
     "sending"],
    ["adapting", "captured.tally", "choosing", "faults", "lab.tables", "overlapped",
     "peers.algorithm", "preflight", "problems.base", "ranks.many", "ranks.one", "tuning.space"],
    ["comparison.records", "learner", "peers.policy", "preparing", "problems.catalogue",
     "problems.results", "ranks.leading", "tuning.study"],
    ["captured.program", "comparison.gathering", "comparison.plan", "comparison.summaries",
     "lab.process", "loading", "peers.engine", "problems.measuring", "trainer", "watching.values"],
    ["callbacks.base", "captured.graphs", "chosen", "comparison.analysis", "comparison.workers",
     "differing", "evaluation", "lab.branches", "lab.freeze", "lab.tabular", "problems",
     "ranks.joining", "restoring"],
    ["callbacks.builtin", "callbacks.calling", "captured.engine", "cluster.crew",
     "comparison.cautions", "comparison.floor", "exporting.command", "lab.members", "lab.sampling",
     "lab.split", "listing", "shrinking", "watching.playing"],
    ["callbacks", "cluster.sizing", "comparison.judgement", "lab.data", "lab.rows", "recalling",
     "reporting", "watching.panel", "watching.sink"],
    ["comparison.figures", "comparison.tables", "lab.fitting", "lab.pictures", "lab.printing",
     "session", "watching.recording", "watching.window"],
    ["comparison.report", "lab.measuring", "lab.pages", "training", "tuning.tables",
     "watching.command"],
    ["comparison.writing", "doctor.machine", "lab.results", "lab.writing", "resuming",
     "tuning.trial"],
    ["comparison.results", "comparison.worker", "doctor.command", "lab.judging", "train_commands",
     "tuning.request"],
    ["comparison.comparing", "lab.entry", "tuning.entry", "tuning.worker"],
    ["commands", "comparison.command", "tuning.command"],
    ["cli"],
    ["__main__"],
]  # fmt: skip
SIDEWAYS: set[tuple[str, str]] = set()
# Names that ``rlgrad`` itself looks up on first use; see rlgrad/__init__.py.
LAZY = {
    "agent", "checking", "comparison.comparing", "comparison.results", "errors", "evaluation",
    "lab.entry", "lab.results", "resuming", "store", "training", "tuning.entry", "tuning.results",
}  # fmt: skip
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TEXTS = {name: path.read_text("utf-8") for name, path in SOURCES.items()}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}


def imports(name: str) -> set[str]:
    """Full names that a module imports anywhere in its text, inside functions too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full.removeprefix("rlgrad.") in SOURCES else str(node.module))
    return found


def edges(name: str) -> set[str]:
    """The modules of rlgrad that a module imports."""
    return {
        full.removeprefix("rlgrad.") if "." in full else "__init__"
        for full in imports(name)
        if full.split(".")[0] == "rlgrad"
    }


def test_every_module_has_its_row():
    listed = [name for row in ROWS for name in row]
    assert len(listed) == len(set(listed))
    assert set(listed) == SOURCES.keys() - {"__init__"}


def test_imports_go_to_earlier_rows_only():
    rank = {name: i for i, row in enumerate(ROWS) for name in row}
    wrong = [
        f"{name} (row {rank[name]}) <- {used} (row {rank[used]})"
        for name in rank
        # The version stands in rlgrad itself; its other names are looked up lazily.
        for used in edges(name) - {"__init__"}
        if rank[used] >= rank[name] and (name, used) not in SIDEWAYS
    ]
    assert wrong == []
    assert all(used in edges(name) for name, used in SIDEWAYS), "an arrow that is not used"
    assert edges("__init__") == LAZY
    assert [name for name in rank if "__init__" in edges(name)] == ["cli"]


def test_estimators_stand_alone():
    # The science is usable without the rest: a copy of one folder and the errors would do.
    allowed = {"torch", "jaxtyping", *sys.stdlib_module_names}
    for name in SOURCES:
        if name.split(".")[0] == "estimators":
            own = {full for full in imports(name) if full.startswith("rlgrad")}
            assert {full.split(".")[0] for full in imports(name) - own} <= allowed, name
            assert all(
                full.startswith("rlgrad.estimators") or full == "rlgrad.errors" for full in own
            ), name


def test_no_module_is_named_like_a_public_function_or_a_folder_of_cards():
    assert not {"train", "resume", "load", "variance", "agents", "envs"} & SOURCES.keys()
    for name in rlgrad.__all__:
        assert getattr(rlgrad, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        rlgrad.trian


def test_nothing_runs_code_from_data():
    for name, tree in TREES.items():
        assert not {"pickle", "dill", "cloudpickle", "joblib", "marshal"} & imports(name), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "compile", "__import__"}, (
                    f"{name}:{node.lineno}"
                )
    importers = [name for name in TREES if "importlib" in imports(name)]
    # The package's own lazy names; tables of constants; what the user named.
    assert importers == ["__init__", "doctor.features", "finding", "simulators.single"]


def code_lines(name: str, function: ast.FunctionDef) -> int:
    """Lines with code: no docstring, no blank lines, no comments."""
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    skipped = range(first.lineno, (first.end_lineno or 0) + 1) if docstring else range(0)
    lines = TEXTS[name].splitlines()
    body = [
        lines[i - 1].strip()
        for i in range(function.lineno, (function.end_lineno or 0) + 1)
        if i not in skipped
    ]
    return sum(bool(line) and not line.startswith("#") for line in body)


@pytest.mark.parametrize("name", SOURCES)
def test_files_and_functions_stay_small(name):
    assert len(TEXTS[name].splitlines()) <= 250
    functions = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: code_lines(name, node) for node in functions}
    assert not {key: length for key, length in lengths.items() if length > 45}


# ------------------------------------------------------------------------ what a user installs


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, with nothing of this process on its path."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository as a clone has it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    copy = tmp_path_factory.mktemp("copy") / "rlgrad"
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def installed(folder: Path, *what: str | Path) -> Path:
    """The ``bin`` of a new environment that has rlgrad, and sees this one's other packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    site = next(folder.glob("lib/python*/site-packages"))
    # The folder is added, but .pth files in it, such as that of an editable rlgrad, are not read.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    python = folder / "bin" / "python"
    flags = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--ignore-installed")
    run(*pip, *flags, *what, cwd=folder.parent)
    return folder / "bin"


def listed(command: Path, cwd: Path) -> dict[str, Path]:
    rows = json.loads(run(command, "list", "agents", "--json", cwd=cwd))
    return {row["name"]: Path(row["card"]) for row in rows}


@pytest.mark.slow
def test_sdist_to_wheel_to_a_clean_environment(checkout, tmp_path):
    # Without a choice of its own, build makes the sdist, unpacks it, and makes the wheel from that.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, cwd=checkout)
    (wheel,) = tmp_path.glob("*.whl")
    bin_ = installed(tmp_path / "venv", wheel)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    cards = listed(bin_ / "rlgrad", foreign)
    assert set(cards) >= set(CARDS)
    inside = tmp_path / "venv"
    assert all(card.is_relative_to(inside) for card in cards.values())
    envs = json.loads(run(bin_ / "python", "-m", "rlgrad", "list", "envs", "--json", cwd=foreign))
    assert {"CartPole-v1", "Acrobot-v1"} <= {row["id"] for row in envs}
    (package,) = inside.glob("lib/python*/site-packages/rlgrad")
    assert (package / "py.typed").is_file()
    assert not (package.parent / "tests").exists()
    assert list(package.parent.glob("rlgrad-*.dist-info/licenses/LICENSE"))
    version = run(bin_ / "rlgrad", "--version", cwd=foreign)
    assert version == f"rlgrad {rlgrad.__version__}\n"
    train = ("train", "CartPole-v1", "--estimator", "relax", "-n", "1", "--eval-episodes", "1")
    result = json.loads(run(bin_ / "rlgrad", *train, "--json", cwd=foreign))
    assert result["seeds"][0]["status"] == "finished"
    notes = json.loads((foreign / result["run"] / "run.json").read_text())["notes"]
    assert not [note for note in notes if note.startswith("using")]  # no local cards: none named


@pytest.mark.slow
def test_an_editable_install_shows_live_files(checkout, tmp_path):
    bin_ = installed(tmp_path / "venv", "--editable", checkout)
    before = listed(bin_ / "rlgrad", tmp_path)
    assert set(before) >= set(CARDS)
    assert all(card.parent == checkout / "agents" for card in before.values())
    added = checkout / "agents" / "added.toml"
    added.write_text('summary = "s"\nsource = "t"\n[config]\n')
    try:
        assert listed(bin_ / "rlgrad", tmp_path).keys() == {*before, "added"}
    finally:
        added.unlink()
