"""Pictures of the real terminal: each command runs in tmux, its screen is taken with its colours.

    python benchmarks/screenshots.py FOLDER [--only train-live,doctor] [--widths 80,120]

It needs tmux and, for PNG, chromium; without chromium the HTML pages stay. Each picture is made on
a light and a dark ground. Runs are kept in FOLDER/work; commands that need one train it first.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

SOCKET = "rlgrad-screenshots"
SETUP = (
    "train CartPole-v1 --estimator relax --seeds 3 -n 4e4 --quiet --log-dir runs",
    "train CartPole-v1 --agent reinforce --seeds 3 -n 4e4 --quiet --log-dir runs",
)
# Name to (command, what its screen shows when it is taken; empty: at its end).
SHOTS = {
    "help": ("--help", ""),
    "train-live": (
        "train CartPole-v1 --estimator relax --seeds 20 --log-dir live",
        r"[5-9][0-9]% .*solved",
    ),
    "train-done": ("train CartPole-v1 --estimator relax -n 2e4 --log-dir other", ""),
    "train-seeds": ("train Acrobot-v1 --seeds 3 -n 4096 --eval-episodes 5 --log-dir other", ""),
    "train-peer": ("train CartPole-v1 --agent sb3-ppo -n 4096 --log-dir other", ""),
    "train-help": ("train CartPole-v1 --help", ""),
    "resume": ("resume latest -n 5e4 --log-dir runs", ""),
    "evaluate": ("evaluate latest --log-dir runs", ""),
    "compare-live": (
        "compare CartPole-v1 --agents reinforce,relax --jobs 2 -n 2e5 --log-dir compared",
        r"return(.|\n)*return",
    ),
    "compare": ("compare runs/CartPole-v1/*/*", ""),
    "variance": ("variance bandit --draws 2000 --train-steps 20", ""),
    "variance-run": ("variance --run latest --log-dir runs --states 2048 --fit-states 2048 "
                     "--split-states 8 --train-steps 10", ""),
    "list-agents": ("list agents", ""),
    "list-envs": ("list envs", ""),
    "list-estimators": ("list estimators", ""),
    "doctor": ("doctor", ""),
    "errors": ("train CartPol-v1; rlgrad train Pendulum-v1; rlgrad evaluate nowhere; "
               "rlgrad train CartPole-v1 --lerning-rate 1; rlgrad tran; "
               "rlgrad train CartPole-v1 --learning-rate fast", ""),
}  # fmt: skip


def tmux(*words: str) -> str:
    """Output of a tmux command, on a server of our own."""
    done = subprocess.run(
        ["tmux", "-L", SOCKET, *words], check=True, capture_output=True, text=True
    )
    return done.stdout


def screen(command: str, width: int, moment: str, cwd: Path) -> str:
    """What a terminal of a width shows of ``rlgrad COMMAND``, with its escape sequences.

    Args:
        command: after ``rlgrad``.
        width: columns.
        moment: pattern of the screen at which it is taken; empty: at the command's end.
        cwd: where it runs.
    """
    script = cwd / "command.sh"
    rlgrad = f'rlgrad() {{ {shlex.quote(sys.executable)} -m rlgrad "$@"; }}'
    script.write_text(f"{rlgrad}\nrlgrad {command}\ntmux -L {SOCKET} wait-for -S done\nsleep 100\n")
    env = [f"-e{k}={os.environ[k]}" for k in ("PYTHONPATH", "PATH") if k in os.environ]
    size = ("-x", str(width), "-y", "50")
    tmux(
        *("new-session", "-d", *size, *env, "-eTERM=xterm-256color", "-eCOLORTERM=truecolor"),
        *("-c", str(cwd), "bash", str(script)),
    )
    try:
        if moment:
            while not re.search(moment, tmux("capture-pane", "-p")):
                time.sleep(0.5)
        else:
            tmux("wait-for", "done")
        text = tmux("capture-pane", "-e", "-p", "-S", "-")
    finally:
        tmux("kill-server")
    shown = f"$ rlgrad {command}"
    prompt = "\n".join(textwrap.wrap(shown, width, drop_whitespace=False))
    return f"{prompt}\n{text.rstrip()}"


def page(text: str, width: int, dark: bool) -> str:
    """The screen as an HTML page."""
    console = Console(record=True, width=width, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.from_ansi(text), soft_wrap=True)
    theme = SVG_EXPORT_THEME if dark else DEFAULT_TERMINAL_THEME
    html = console.export_html(theme=theme, inline_styles=True)
    font = "font: 14px/1.25 'DejaVu Sans Mono', monospace; white-space: pre; padding: 8px"
    return re.sub(r"<pre style=\"[^\"]*\"", f'<pre style="{font}; width: {width}ch"', html)


def picture(html: Path, png: Path, width: int, lines: int) -> None:
    """The page as a PNG, if there is a browser."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        return
    size = f"{int(width * 8.43) + 40},{int(lines * 17.5) + 50}"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size}",
         f"--screenshot={png}", html.resolve().as_uri()],
        check=True, capture_output=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(SHOTS))
    parser.add_argument("--widths", default="80,120")
    options = parser.parse_args()
    work = (options.folder / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "runs").exists():
        for command in SETUP:
            words = [sys.executable, "-m", "rlgrad", *command.split()]
            subprocess.run(words, cwd=work, check=True)
    for name in options.only.split(","):
        command, moment = SHOTS[name]
        for width in map(int, options.widths.split(",")):
            text = screen(command, width, moment, work)
            for dark in (False, True):
                stem = f"{name}-{width}-{'dark' if dark else 'light'}"
                html = options.folder / f"{stem}.html"
                html.write_text(page(text, width, dark), "utf-8")
                rows = sum(
                    max(1, -(-len(Text.from_ansi(line)) // width)) for line in text.split("\n")
                )
                picture(html, options.folder / f"{stem}.png", width, rows)
            print(f"{name} at {width} columns: {len(text.splitlines())} lines", flush=True)


if __name__ == "__main__":
    main()
