"""The command line as a user meets it: real processes, real files, and what bad input gets."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, Tuple
from kept_runs import strict
from safetensors.torch import save_file

import rlgrad
from rlgrad import store
from rlgrad.cli import main
from rlgrad.report import _text


class Own(gymnasium.Env):
    """Ten steps; processes import this file as an environment module."""

    observation_space = Box(-1, 1, (2,))
    action_space: gymnasium.Space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


class NanReward(Own):
    def step(self, action):
        return np.zeros(2, np.float32), float("nan"), False, False, {}


class TwoActions(Own):
    action_space = Tuple((Discrete(2), Discrete(3)))


class NotMade(Own):
    def __init__(self):
        raise RuntimeError("needs\na licence")


class NotReset(Own):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("needs\na licence")


for each in (Own, NanReward, TwoActions, NotMade, NotReset):
    if f"own/{each.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"own/{each.__name__}-v0", each, max_episode_steps=10)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with a run, damaged runs, bad cards and a file in the way."""
    folder = tmp_path_factory.mktemp("cli")
    for name, text in {
        "agents/unknown-key.toml": 'summary="s"\nsource="t"\n[config]\nlerning_rate = 1.0',
        "agents/wrong-type.toml": 'summary="s"\nsource="t"\n[config]\nnum_envs = "many"',
        "envs/Unsolvable-v0.toml": 'id = "Unsolvable-v0"\nsummary = "s"',
        "file": "in the way",
        "garbage/card.toml": "format = ",
        "newer/card.toml": "format = 99",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    run = rlgrad.train(
        "CartPole-v1", seeds="3,4", total_timesteps=1, eval_episodes=2, quiet=True,
        log_dir=str(folder / "runs"),
    )  # fmt: skip
    run.path.rename(folder / "run")
    truncated = folder / "truncated"
    (truncated / "checkpoints").mkdir(parents=True)
    (truncated / "card.toml").write_bytes((folder / "run/card.toml").read_bytes())
    (checkpoint,) = (folder / "run/checkpoints").glob("step-*")
    (truncated / "checkpoints" / checkpoint.name).write_bytes(checkpoint.read_bytes()[:1000])
    return folder


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``rlgrad`` in a process of its own; this file is an environment module there."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",  # Gymnasium warns of old ids on the standard error
        **environment,
    }
    command = [sys.executable, "-m", "rlgrad", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def one_error_line(stderr: str) -> str:
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("rlgrad: ")
    assert "Traceback" not in stderr
    return lines[0]


# Arguments, -n 1 added, and what the line must say.
BAD = {
    "train CartPol-v1": "'CartPol-v1'; did you mean CartPole-v1",
    "train CartPole-v1 --agent relaxx": "'relaxx'; did you mean relax?",
    "train CartPole-v1 --estimator relx": "'relx'; did you mean relax?",
    "train CartPole-v1 --lerning-rate 1": "--lerning-rate; did you mean --learning-rate",
    "train Pendulum-v1": "continuous action space .*; supported are Discrete, MultiDiscrete and",
    "train own/TwoActions-v0": r"action space Tuple\(.*; supported are Discrete, MultiDiscrete and",
    "train own/NotMade-v0": "own/NotMade-v0 .*needs a licence",
    "train own/NotReset-v0": "own/NotReset-v0 .*needs a licence",
    "train CartPole-v1 --env-module nope": "cannot import .*'nope'",
    "train CartPole-v1 --agent unknown-key": "unknown-key.toml .*'lerning_rate'; did you mean",
    "train CartPole-v1 --agent wrong-type": "wrong-type.toml .*'many'; expected int",
    "train CartPole-v1 --device cuda": "--device cuda, .* use --device cpu",
    "train CartPole-v1 --device cpu --capture on": "--capture on, but .*on cpu; use --capture auto",
    "train CartPole-v1 --log-dir file/runs": "file/runs: .* --log-dir",
    "train CartPole-v1 --seeds 9-3": "'9-3'; expected .*0-9",
    "train CartPole-v1 --seed 1 --seeds 2": "both --seed and --seeds",
    "train own/Own-v0 --stop-when-solved": "own/Own-v0 .*--stop-when-solved .*solved_at",
    "train CartPole-v1 --temperature 1": "reinforce has no option .*temperature.* takes none",
    "train CartPole-v1 --env-kwargs gravity": "'gravity'; expected key:value",
    "evaluate nowhere": "nowhere is no run directory",
    "evaluate truncated": "truncated.* cannot be read as a checkpoint",
}


# Met by the table of options, by a card, by an environment, by its module and by a run.
IN_A_PROCESS = (
    "train CartPole-v1 --lerning-rate 1",
    "train CartPole-v1 --agent wrong-type",
    "train own/NotReset-v0",
    "train CartPole-v1 --env-module nope",
    "evaluate truncated",
)


def in_full(command: str) -> list[str]:
    """A command of the table above with what all of its kind are given."""
    train = ["-n", "1"] if command.startswith("train") else []
    own = ["--env-module", "test_cli"] if "own/" in command else []
    return [*command.split(), *train, *own]


@pytest.mark.parametrize("command", IN_A_PROCESS)
def test_bad_input_to_a_process_is_one_line_and_status_2_and_leaves_nothing(place, command):
    before = files(place)
    done = process(*in_full(command), cwd=place)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert re.search(BAD[command], one_error_line(done.stderr))
    assert files(place) == before


@pytest.mark.filterwarnings("ignore")  # of Gymnasium, about old ids
@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(place, monkeypatch, capsys, command):
    if "cuda" in command and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.chdir(place)
    assert re.search(BAD[command], bad_line(capsys, place, *in_full(command)))


# What a curious user tries. The line must name the option and what came, not just say "error".
ODD_VALUES = {
    "-n": ["0", "-5", "abc", "1.5", "nan", "1e400", ""],
    "--seeds": ["", "0", "-5", "1,1", "1,", "0-", "one", "99999999999"],
    "--seed": ["-1", "9223372036854775808", "one"],
    "--agent": ["", "🙂", "../relax", "None"],
    "--estimator": ["", "relax2", "Ünïcödé"],
    "--signal": ["td"],
    "--device": ["tpu"],
    "--capture": ["maybe"],
    "--learning-rate": ["fast", "nan", "inf", "-1"],
    "--hidden": ["0", "-3", "1e9", "wide"],
    "--num-envs": ["0", "-1", "1e12"],
    "--eval-episodes": ["0", "-3"],
    "--eval-freq": ["-1"],
    "--save-freq": ["-1"],
    "--log-freq": ["-1"],
    "--log-dir": [""],
    "--env-kwargs": ["gravity", ":", ""],
    "--env-module": ["", "no.module", "../evil"],
}


def bad_line(capsys, place: Path, *arguments: str) -> str:
    """What a command that must fail says."""
    before = files(place)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert files(place) == before
    return one_error_line(output.err)


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option in ODD_VALUES for value in ODD_VALUES[option]]
)
def test_odd_values_are_named(place, monkeypatch, capsys, option, value):
    monkeypatch.chdir(place)
    length = () if option == "-n" else ("-n", "1")
    line = bad_line(capsys, place, "train", "CartPole-v1", *length, "--quiet", option, value)
    name = {"-n": "total-timesteps", "--env-kwargs": "", "--env-module": "module"}
    assert name.get(option, option[2:]) in line.replace("_", "-")
    assert value in line.replace("(0,)", "0").replace("1000000000000", "1e12")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train", "train needs an environment"),
        ("train ''", "unknown environment ''"),
        ("train CartPole", "did you mean CartPole-v1"),
        ("train ../../etc/passwd", "unknown environment '../../etc/passwd'"),
        ("train Ünïcödé🙂-v0", "unknown environment 'Ünïcödé🙂-v0'"),
        (f"train {'x' * 5000}", "unknown environment"),
        ("train nomodule:Env-v0", "'nomodule'"),
        ("train :CartPole-v1", "':CartPole-v1'"),
        ("train CartPole-v1 Acrobot-v1", "Acrobot-v1"),
        ("train CartPole-v1 -x 1", "-x"),
        ("train CartPole-v1 -n 1 --env-kwargs gravity:1", "'gravity'"),
        ("train CartPole-v1 --adam-beta2 1", "adam_beta2 = 1"),
        ("train CartPole-v1 --estimator constant --decay 2", "decay = 2"),
        ("train CartPole-v1 --estimator constant --decay 0", "decay = 0"),
        ("train CartPole-v1 --agent", "--agent"),
        ("train CartPole-v1 --agent --quiet", "--agent"),
        ("train CartPole-v1 --quiet -n", "-n"),
        ("train CartPole-v1 --estimator exact", "estimator exact needs f at more than"),
        ("train CartPole-v1 --agent rebar --temperature 0", "rebar: got temperature 0.0; expected"),
        ("train CartPole-v1 --estimator disarm", "estimator disarm needs f at more than"),
        ("train CartPole-v1 --estimator relax --fit variance", "relax-linear has no option 'fit'"),
        ("train CartPole-v1 --estimator learned --per-logit", "leave out per_logit"),
        ("train CartPole-v1 --estimator learned --fit variance --centre", "--fit regression"),
        ("train CartPole-v1 --observation-scale 1 2", "observation_scale has 2 numbers"),
        ("trian CartPole-v1", "did you mean train or variance?"),
        ("evaluate", "evaluate"),
        ("evaluate ''", "''"),
        ("evaluate garbage", "not a valid card"),
        ("evaluate newer", "format 99"),
        ("evaluate latest --log-dir nowhere", "no run below nowhere"),
        ("evaluate run --seed 9", "no seed 9; it has 3, 4"),
        ("evaluate run --episodes 0", "--episodes 0"),
        ("evaluate run --env-seed -1", "-1"),
        ("evaluate run --env-seed 99999999999999999999", "99999999999999999999"),
        ("list", "agents"),
        ("list agent", "did you mean agents?"),
        ("list agents envs", "envs"),
    ],
)
def test_odd_commands_are_answered(place, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(place)
    assert said in bad_line(capsys, place, *shlex.split(arguments))


SEEDS = r"seeds = \[[^]]*\]"
HIDDEN = r"hidden = \[[^]]*\]"


@pytest.mark.parametrize(
    ("pattern", "text", "counters"),
    [
        (SEEDS, "seeds = []", {}),
        (SEEDS, "seeds = ['a']", {}),
        (SEEDS, "seeds = [-1, 4]", {}),
        (SEEDS, f"seeds = [3, {10**30}]", {}),
        (HIDDEN, "hidden = [65536, 65536, 65536]", {}),
        ('id = "CartPole-v1"', 'id = "Acrobot-v1"', {}),
        ('id = "CartPole-v1"', 'id = "no_module:Env-v0"', {}),
        ("modules = .*", "modules = ['no_module']", {}),
        ("", "", None),
        ("", "", {"features": None}),
        ("", "", {"features": "four"}),
        ("", "", {"features": -1}),
        ("", "", {"features": 5}),
        ("", "", {"features": 10**9}),
        ("", "", {"actions": 3}),
        ("", "", {"observation_scale": "none"}),
        ("", "", {"observation_scale": [1.0]}),
    ],
    ids=str,
)
def test_a_damaged_run_is_refused_in_one_line(
    place, tmp_path, monkeypatch, capsys, pattern, text, counters
):
    monkeypatch.chdir(place)
    run = store.read_run(place / "run")
    tensors, good = store.load_checkpoint(run.checkpoints()[-1])
    kept = good if counters is None else {k: v for k, v in {**good, **counters}.items() if v}
    (tmp_path / "checkpoints").mkdir()
    metadata = {"format": "1", "counters": json.dumps([] if counters is None else kept)}
    save_file(tensors, tmp_path / "checkpoints" / "step-1.safetensors", metadata)
    card = (place / "run" / "card.toml").read_text()
    assert re.search(pattern, card)
    (tmp_path / "card.toml").write_text(re.sub(pattern, text, card, count=1) if text else card)
    line = bad_line(capsys, place, "evaluate", str(tmp_path), "--episodes", "1")
    assert str(tmp_path) in line or "Acrobot-v1" in line
    assert "\t" not in line


def result_of(capsys, *arguments: str):
    assert main(arguments) == 0
    return strict(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "seeds", "steps"),
    [
        ("--estimator=relax --seeds=0-2 -n 5e2 --no-stop-when-solved {env}", [0, 1, 2], 768),
        ("-n=300 --hidden 8 8 --seed 7 {env} --quiet", [7], 384),
        ("--hidden 8 8 --seeds 5,2 {env} --total_timesteps 1 --agent reinforce", [5, 2], None),
        ("{env} --seed=9007199254740993 --num-envs 2e0 --num-steps=8 -n 1e1", [2**53 + 1], 16),
        ("--estimator learned --centre --no-normalise {env} --seeds 1 -n 1", [0], 384),
        ("--estimator learned --fit variance --per-logit {env} --seeds 1 -n 1", [0], 384),
        ("--estimator all-action-control --fit=regression {env} --seeds 1 -n 1", [0], 384),
        ("{env} --env-kwargs sutton_barto_reward:True --seeds 1 -n 1_0 --hidden", [0], 384),
    ],
)
def test_spellings(tmp_path, capsys, arguments, seeds, steps):
    words = arguments.format(env="CartPole-v1").split()
    result = result_of(
        capsys, "train", "--json", "--eval-episodes", "1", "--log-dir", str(tmp_path), *words
    )
    assert [seed["seed"] for seed in result["seeds"]] == seeds
    assert steps is None or {seed["steps"] for seed in result["seeds"]} == {steps}
    assert result["agent"] == {"--estimator=relax": "relax"}.get(words[0], result["agent"])
    assert Path(result["run"], "card.toml").is_file()


def test_large_whole_numbers_keep_their_digits(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    seeds = [2**53, 2**53 + 1]  # the same float
    rows = [
        result_of(capsys, "evaluate", "run", "--episodes", "3", "--env-seed", str(seed), "--json")
        for seed in seeds
    ]
    assert rows[0] != rows[1]


def test_help_shows_the_cards_values(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main(["train", "CartPole-v1", "--estimator", "relax", "--help"])
    assert stopped.value.code == 0
    text = " ".join(re.sub(r"[^!-~]+", " ", capsys.readouterr().out).split())
    for option, value in {
        "--estimator": "relax-linear",
        "--hidden": "32 32",
        "--temperature": "0.5",
        "--coupling": "coupled",
        "--anneal-steps": "60000",
        "--observation-scale": "1.0 1.0 5.0 1.0",
        "--num-envs": "12",
    }.items():
        assert f"default: {value})" in text.split(f" {option} ")[1].split(" --")[0], option
    assert "ENV" in text.split("options")[0]  # the usage names the environment


def test_result_is_json_and_a_failed_seed_gives_status_1(place):
    options = ("-n", "1", "--env-module", "test_cli", "--log-dir", "nan")
    done = process("train", "own/NanReward-v0", *options, "--json", cwd=place)
    assert done.returncode == 1
    assert strict(done.stdout)["seeds"][0]["status"] == "failed"
    assert "Traceback" not in done.stderr
    assert "FAILED" in done.stderr


@pytest.mark.parametrize("what", ["agents", "envs", "estimators"])
def test_lists(capsys, monkeypatch, what):
    monkeypatch.setenv("COLUMNS", "80")
    rows = result_of(capsys, "list", what, "--json", "--cite")
    assert {"relax", "CartPole-v1"} & {row.get("name", row.get("id")) for row in rows}
    sources = [row["source"] for row in rows if row["source"] != "-"]
    for cite in (True, False):
        assert main(["list", what, *["--cite"][:cite]]) == 0
        lines = capsys.readouterr().out.splitlines()
        text = "".join("".join(lines).split())
        for row in rows:
            assert row.get("name", row.get("id")) in "".join(lines)
        for source in sources:
            assert ("".join(source.split())[:12] in text) == cite
        assert len(lines) < 15 * len(rows), "a column of single letters cannot be read"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("what", ["agents", "envs", "estimators", "problems"])
def test_lists_cut_nothing(capsys, monkeypatch, what, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = result_of(capsys, "list", what, "--json")
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    edge = max(lines[0].find("summary"), 0)  # 0: summaries stand below their rows
    summaries = " ".join(line[edge:].strip() for line in lines)
    for row in rows:
        hidden = ("card", "source", "summary", "algorithm")
        cells = [value for key, value in row.items() if key not in hidden]
        whole = [_text(x) for x in cells]
        assert any(re.split(" {2,}", line)[: len(whole)] == whole for line in lines), whole
        assert row["summary"] in summaries


def test_a_terminal_of_one_column_is_no_traceback(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    assert main(["list", "estimators"]) == 0
    assert "all-action-control" in capsys.readouterr().out


def test_evaluate_prints_a_table_or_json(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    rows = result_of(capsys, "evaluate", "run", "--episodes", "2", "--json")
    assert [row["seed"] for row in rows] == [3, 4]
    assert rows[0]["sampled"]["episodes"] == 2
    assert main(["evaluate", "run", "--seed", "4", "--episodes", "2"]) == 0
    table = capsys.readouterr().out
    assert f"{rows[1]['sampled']['mean']:.1f}" in table
    assert "argmax" in table


@pytest.mark.parametrize(
    "code", ["import rlgrad", "main(['--help'])", "main(['--version'])", "main(['list', 'agents'])"]
)
def test_light_commands_are_light(code):
    heavy = {"torch", "stable_baselines3", "tensorboard", "jaxtyping"}
    if code == "import rlgrad":
        heavy |= {"gymnasium", "numpy", "rich", "tyro"}
    else:
        code = f"from rlgrad.cli import main; assert {code} == 0"
    code += f"; import sys; assert not {heavy!r} & set(sys.modules), set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_plain_terminal_gets_plain_lines(tmp_path):
    arguments = ("train", "CartPole-v1", "--signal", "td")
    done = process(*arguments, cwd=tmp_path, PYTHONIOENCODING="ascii", TERM="dumb")
    assert "---" not in one_error_line(done.stderr)  # the parser draws boxes


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    command = f"{sys.executable} -m rlgrad list agents --json | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.stderr == b""


def test_a_value_that_does_not_parse_is_named_on_a_terminal_too():
    # There tyro draws its box in colours.
    leader, terminal_ = os.openpty()
    command = [sys.executable, "-m", "rlgrad", "train", "CartPole-v1", "--learning-rate", "fast"]
    done = subprocess.run(
        command,
        stdin=terminal_,
        stdout=terminal_,
        stderr=terminal_,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal_)
    said = os.read(leader, 4096).decode()
    os.close(leader)
    assert done.returncode == 2
    assert "could not convert string to float: 'fast'" in " ".join(said.split())
