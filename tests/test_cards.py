"""Cards: what wins over what, what is refused and how, and that every shipped card trains."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shipped import OWN

import rlgrad
from rlgrad import card_files, cards, store
from rlgrad.config import FIELDS, Config
from rlgrad.creating import create
from rlgrad.errors import UsageError
from rlgrad.naming import safe_name
from rlgrad.options import Options, parse_seeds
from rlgrad.simulators import SIMULATORS

FAMILIES = {"ALE": "ALE/Pong-v5", "MinAtar": "MinAtar/Breakout-v1"}  # of namespaces: a member
ENVS = sorted(card_files.find("envs").keys() - FAMILIES.keys())
# No deadline: the machine may be busy. Derandomised: the same examples in every run.
steady = settings(
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
AGENT = 'summary = "s"\nsource = "t"\n'
ENV = 'id = "Own-v0"\nsummary = "s"\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory, and a function that puts a card there."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_precedence_is_defaults_env_agent_section_flags(place):
    # One field per layer: each layer sets the fields of all that come after it, too.
    place(
        "envs/Own-v0.toml", f"{ENV}[config]\ngamma=0.1\ngae_lambda=0.1\nentropy_coef=0.1\ndecay=0.1"
    )
    place(
        "agents/own.toml",
        f"{AGENT}[config]\ngae_lambda=0.2\nentropy_coef=0.2\ndecay=0.2\n"
        '[environments."Own-v0"]\nentropy_coef=0.3\ndecay=0.3\n'
        '[environments."Other-v0"]\ngamma=0.9\n',
    )
    config = cards.resolve("Own-v0", "own", None, {"decay": 0.4}).config
    layers = (config.gamma, config.gae_lambda, config.entropy_coef, config.decay)
    assert layers == (0.1, 0.2, 0.3, 0.4)
    assert config.learning_rate == Config().learning_rate


def test_environment_arguments_of_flags_win_over_the_cards(place):
    place("envs/Own-v0.toml", f"{ENV}[kwargs]\na = 1\nb = 2\n")
    resolved = cards.resolve("Own-v0", env_kwargs={"b": 3}, env_modules=["m"])
    assert resolved.env.kwargs == {"a": 1, "b": 3}
    assert resolved.env.modules == ("m",)


@pytest.mark.parametrize(
    ("agent", "estimator", "name", "used", "signal"),
    [
        (None, None, "actor-critic", "reinforce", "gae"),
        (None, "relax", "relax", "relax-linear", "gae"),
        (None, "reinforce", "reinforce", "reinforce", "return-to-go"),
        (None, "constant", "actor-critic+constant", "constant", "gae"),
        (None, "learned", "actor-critic+learned", "learned", "gae"),
        ("reinforce-learned", None, "reinforce-learned", "learned", "return-to-go"),
        ("reinforce", "relax", "reinforce+relax", "relax", "return-to-go"),
        ("relax", "reinforce", "relax+reinforce", "reinforce", "gae"),
        ("relax", "relax", "relax+relax", "relax", "gae"),
        ("relax-network", "relax", "relax-network", "relax", "gae"),
    ],
)
def test_choice_of_agent_and_estimator(agent, estimator, name, used, signal):
    resolved = cards.resolve("CartPole-v1", agent, estimator)
    config = resolved.config
    assert (resolved.agent, config.estimator, config.signal) == (name, used, signal)
    # Options of the card's own estimator mean nothing to the one that replaces it.
    assert config.temperature == (0.5 if name in ("relax", "relax-network") else None)


BAD_AGENTS = {
    "unknown table": (f"{AGENT}[confg]", ["unknown key 'confg'", "did you mean config?"]),
    "unknown key": (
        f"{AGENT}[config]\nlerning_rate = 1",
        ["[config]", "unknown key 'lerning_rate'", "did you mean learning_rate"],
    ),
    "unknown key of a section": (
        f'{AGENT}[config]\n[environments."Own-v0"]\ngama = 1',
        ["Own-v0", "unknown key 'gama'", "did you mean gamma"],
    ),
    "text for a number": (f'{AGENT}[config]\ngamma = "big"', ["gamma = 'big'", "expected float"]),
    "number for text": (f"{AGENT}[config]\nestimator = 3", ["estimator = 3", "expected str"]),
    "flag for a count": (f"{AGENT}[config]\nnum_envs = true", ["num_envs = True", "expected int"]),
    "count for a flag": (f"{AGENT}[config]\ncentre = 1", ["centre = 1", "expected bool"]),
    "half a count": (f"{AGENT}[config]\nnum_envs = 1.5", ["num_envs = 1.5", "expected int"]),
    "number for a list": (f"{AGENT}[config]\nhidden = 3", ["hidden = 3", "expected a list of int"]),
    "list in a list": (f"{AGENT}[config]\nhidden = [[3]]", ["hidden = [[3]]", "expected"]),
    "no such choice": (f'{AGENT}[config]\nsignal = "td"', ["signal = 'td'", "'n-step', 'gae'"]),
    "too small": (f"{AGENT}[config]\nnum_envs = 0", ["num_envs = 0", "expected 1 to"]),
    "too large": (f"{AGENT}[config]\ngamma = 1.1", ["gamma = 1.1", "expected 0 to 1"]),
    "no width": (f"{AGENT}[config]\nhidden = [0]", ["hidden = [0]", "widths from 1"]),
    "nan": (f"{AGENT}[config]\nlearning_rate = nan", ["learning_rate = nan", "expected"]),
    "infinity": (f"{AGENT}[config]\nvalue_scale = inf", ["value_scale = inf", "expected"]),
    "count overflows": (f"{AGENT}[config]\nnum_envs = 1e999", ["num_envs = inf", "expected int"]),
    "float overflows": (
        f"{AGENT}[config]\ngamma = {'9' * 400}",
        ["a number of 1329 bits", "expected"],
    ),
    "too many digits": (f"{AGENT}[config]\ngamma = {'9' * 5000}", []),
    "config is no table": (f"{AGENT}config = 3", ["config = 3", "expected table"]),
    "nothing": ("", ["no 'source'", "source, summary"]),
    "no config": (AGENT, ["no 'config'", "config, source, summary"]),
    "a peer's config": (f'{AGENT}algorithm="stable_baselines3.A2C"\n[config]', ["no 'arguments'"]),
    "no source": ('summary = "s"\n[config]', ["no 'source'"]),
    "unknown key of a tuning": (
        f'{AGENT}[config]\n[tuning."Own-v0"]\ntrials = 3',
        ["Own-v0", "unknown key 'trials'", "did you mean tuned_trials"],
    ),
    "text for a number of trials": (
        f'{AGENT}[config]\n[tuning."Own-v0"]\ntuned_trials = "3"',
        ["tuned_trials = '3'", "int"],
    ),
    "seeds that are none": (
        f'{AGENT}[config]\n[tuning."Own-v0"]\nseeds = "many"',
        ["Own-v0", "got seeds 'many'"],
    ),
    "tuning is no table": (f"{AGENT}tuning = 3\n[config]", ["tuning = 3", "expected table"]),
    "not TOML": ("a b c", ["cannot be read as a card", "line 1"]),
    "not UTF-8": (b"\xff\xfe\x00", ["cannot be read"]),
    "a NUL": (b"\x00", ["cannot be read as a card"]),
    "deep nesting": (f"x = {'[' * 100_000}", ["nested too deeply"]),
    "huge": (b"#" * (2 << 20), ["expected at most 1,048,576"]),
}


@pytest.mark.parametrize(("text", "fragments"), BAD_AGENTS.values(), ids=BAD_AGENTS)
def test_bad_agent_cards_are_refused_in_one_line(place, text, fragments):
    path = place("agents/bad.toml", text)
    with pytest.raises(UsageError) as caught:
        cards.resolve("Own-v0", "bad")
    message = str(caught.value)
    for fragment in [str(path), *fragments]:
        assert fragment in message
    assert "\n" not in message
    assert len(message) < 1000, "a whole card is no error message"


REFERENCE = '[[references]]\nagent = "relax"\nscore = 500.0\n'
BAD_ENVS = {
    "another id": ('id = "Else-v0"\nsummary = "s"', ["id = 'Else-v0'", "expected 'Own-v0'"]),
    "unknown key": (f'{ENV}simulater = "x"', ["unknown key 'simulater'", "did you mean simulator"]),
    "bad config": (f"{ENV}[config]\nnum_env = 1", ["[config]", "did you mean num_envs"]),
    "solved_at is text": (f'{ENV}solved_at = "high"', ["solved_at = 'high'", "expected float"]),
    "solved_at is a flag": (f"{ENV}solved_at = true", ["solved_at = True", "expected float"]),
    "solved_at is nan": (f"{ENV}solved_at = nan", ["solved_at = nan", "expected"]),
    "unsourced": (f'{ENV}{REFERENCE}protocol = "p"', ["reference has no source", "refused"]),
    "no protocol": (f'{ENV}{REFERENCE}source = "s"', ["reference has no protocol", "refused"]),
    "empty source": (f'{ENV}{REFERENCE}source = ""\nprotocol = "p"', ["source"]),
    "references are no tables": (f"{ENV}references = [1]", ["references", "table"]),
    "score is text": (
        f'{ENV}[[references]]\nagent="a"\nscore="high"\nsource="s"\nprotocol="p"',
        ["score", "high"],
    ),
}


@pytest.mark.parametrize(("text", "fragments"), BAD_ENVS.values(), ids=BAD_ENVS)
def test_bad_environment_cards_are_refused_in_one_line(place, text, fragments):
    path = place("envs/Own-v0.toml", text)
    with pytest.raises(UsageError) as caught:
        cards.resolve("Own-v0")
    for fragment in [str(path), *fragments]:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("simulator", ["nope", "Acrobot-v1", "CartPole-v1", "rlgrad/ValueProbe-v0"])
def test_a_simulator_that_cannot_stand_in_is_refused(place, tmp_path, simulator):
    # Not there; no batched class; not ours (NumPy); ours, but with another observation.
    text = f'id = "CartPole-v1"\nsummary = "s"\nsimulator = "{simulator}"\n'
    place("envs/CartPole-v1.toml", text)
    with pytest.raises(UsageError, match="simulator"):
        rlgrad.train("CartPole-v1", total_timesteps=1, log_dir=str(tmp_path / "runs"), quiet=True)
    assert not (tmp_path / "runs").exists()


def test_a_card_cannot_import_a_module(place, tmp_path):
    # gymnasium.make_vec("module:Id") imports the module: a card from elsewhere would run code.
    place("evil.py", "open('imported', 'w').close()")
    place("envs/CartPole-v1.toml", 'id="CartPole-v1"\nsummary="s"\nsimulator="evil:Env-v0"')
    command = [sys.executable, "-m", "rlgrad", "train", "CartPole-v1", "-n", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert not (tmp_path / "imported").exists()
    assert done.returncode == 2


def test_local_cards_win_and_are_said_aloud(place, capsys):
    shipped = cards.resolve("CartPole-v1", "relax")
    assert shipped.notes == ()
    agent = place("agents/relax.toml", f"{AGENT}[config]\ngamma = 0.5")
    env = place("envs/CartPole-v1.toml", 'id = "CartPole-v1"\nsummary = "s"')
    local = cards.resolve("CartPole-v1", "relax")
    assert local.config.gamma == 0.5
    assert local.env.solved_at is None
    assert {f"using {agent}", f"using {env}"} <= set(local.notes)
    assert card_files.find("agents")["reinforce"].parent != agent.parent  # others are still found
    rlgrad.train("CartPole-v1", "relax", total_timesteps=1, eval_episodes=1, log_dir="runs")
    said = capsys.readouterr().err
    assert f"using {agent}" in said
    assert f"using {env}" in said


def test_an_environment_without_a_card_is_said_aloud(place):
    (note,) = cards.resolve("Own-v0").notes
    assert "Own-v0 has no card" in note


def test_a_card_of_a_module_environment_has_a_safe_file_name(place):
    text = 'id = "my.package:Own/Env-v0"\nsummary = "s"\n[config]\ngamma = 0.25'
    place("envs/my.package-Own-Env-v0.toml", text)
    assert cards.resolve("my.package:Own/Env-v0").config.gamma == 0.25


@pytest.mark.parametrize(
    ("name", "safe"), [("ALE/Breakout-v5", "ALE-Breakout-v5"), ("module:Env-v0", "module-Env-v0")]
)
def test_safe_names_of_ids(name, safe):
    assert safe_name(name) == safe


@steady
@example("..").via("parent directory")
@example("/").via("root")
@example("\x00").via("NUL")
@example("a" * 5000).via("longer than a file name may be")
@given(st.text())
def test_any_text_gives_one_harmless_path_component(text):
    safe = safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,119}", safe)
    assert Path("runs", safe).parent == Path("runs")


@steady
@given(env_id=st.text(), agent=st.text(min_size=1))
def test_run_directories_stay_below_the_log_directory(tmp_path, env_id, agent):
    resolved = cards.Resolved(card_files.EnvCard(env_id), agent, Config(), ())
    run = create(resolved, [0], Options(log_dir=str(tmp_path)))
    assert run.path.resolve().parent.parent.parent == tmp_path.resolve()
    assert store.read_run(run.path) == run  # whatever the text, the card reads back


@pytest.mark.parametrize("name", ENVS)
def test_shipped_environment_cards(name):
    card = card_files.read_env(card_files.find("envs")[name])
    assert safe_name(card.id) == name
    assert card.id in gymnasium.registry
    assert card.simulator in {"", *SIMULATORS}
    assert card.solved_at is not None


@pytest.mark.parametrize(("name", "member"), FAMILIES.items())
def test_a_namespace_has_a_card_for_all_its_environments(name, member, place):
    shared = card_files.read_env(card_files.find("envs")[name])
    assert safe_name(shared.id) == name
    card = card_files.env_card(member)
    assert (card.id, card.config) == (member, shared.config)
    assert cards.resolve(member).config.num_steps == shared.config["num_steps"]
    own = f'id = "{member}"\nsummary = "its own"\n'
    place(f"envs/{safe_name(member)}.toml", own)
    assert card_files.env_card(member).summary == "its own"
    agent = AGENT + f'[config]\n[environments."{name}"]\nnum_steps = 3\n'
    place("agents/mine.toml", agent)
    assert cards.resolve(member, "mine").config.num_steps == 3
    place("agents/mine.toml", agent + f'[environments."{member}"]\nnum_steps = 4\n')
    assert cards.resolve(member, "mine").config.num_steps == 4


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("agent", OWN)
def test_every_shipped_card_trains(agent, env, tmp_path):
    if env.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    run = rlgrad.train(
        env, agent, total_timesteps=257, num_envs=4, num_steps=64, max_episode_steps=60,
        eval_episodes=1, log_dir=str(tmp_path), quiet=True,
    )  # fmt: skip
    (seed,) = run.result()["seeds"]
    assert seed["status"] == "finished"
    assert seed["steps"] >= 257
    assert set(store.read_run(run.path).config.__dict__) == set(FIELDS)


REPORTED = {*range(20), *range(100, 200)}  # seeds that README, docs and benchmarks report


@pytest.mark.parametrize("agent", OWN)
def test_no_shipped_card_was_tuned_on_seeds_that_are_reported(agent):
    for env, effort in card_files.agent_card(agent).tuning.items():
        assert env in ENVS
        assert effort["tuned_trials"] > 0
        assert not REPORTED & set(parse_seeds(effort["seeds"]))


def test_a_record_of_tuning_speaks_of_the_cards_own_settings_only(place):
    text = '[config]\n[tuning."Own-v0"]\ntuned_trials = 3\nseeds = "1000-1004"\n'
    place("agents/own.toml", AGENT + text)
    effort = {"tuned_trials": 3, "seeds": "1000-1004"}
    assert cards.resolve("Own-v0", "own").tuning == effort
    assert cards.resolve("Own-v0", "own", None, {"total_timesteps": 5}).tuning == effort
    assert cards.resolve("Own-v0", "own", None, {"learning_rate": 0.1}).tuning == {}
    assert cards.resolve("Own-v0", "own", "constant").tuning == {}
    assert cards.resolve("CartPole-v1", "own").tuning == {}


def test_there_are_shipped_cards():
    assert {"reinforce", "reinforce-constant", "reinforce-learned", "actor-critic", "relax"} <= set(
        OWN
    )
    assert {"CartPole-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1"} <= set(ENVS)
