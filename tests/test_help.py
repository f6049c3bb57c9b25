"""Help reads as text: paragraphs that fill the width, and no default where there is none."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from rlgrad.cli import COMMANDS, TABLES, main
from rlgrad.helptexts import _paragraphs


def helped(name: str, width: int, capsys, monkeypatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    env = ["CartPole-v1"] if name == "train" else []
    with pytest.raises(SystemExit):
        main([name, *env, "--help"])
    # With a box around it or without, as the terminal can show it.
    return [line.strip("│").rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_text_is_whole_and_its_lines_are_full(name, width, capsys, monkeypatch):
    lines = helped(name, width, capsys, monkeypatch)
    assert max(map(len, lines)) <= width
    whole = " ".join(" ".join(lines).split())
    for kind in (COMMANDS[name], *TABLES.get(COMMANDS[name], ())):
        for field, text in _paragraphs(kind):
            assert field == "env" or text in whole, field  # train's has its place in the usage
    assert not re.search(r"default: (None)?\)|\{None\}|``", whole)
    # A line ends before its words would fill it only where a text ends.
    for line, after in pairwise(lines):
        indent = len(after) - len(after.lstrip())
        goes_on = indent > 12 and len(line) - len(line.lstrip()) == indent
        if goes_on and not line.endswith((".", ")")):
            assert len(line) + len(after.split()[0]) + 1 > width - 6, (line, after)


def test_optional_numbers_are_called_what_they_are(capsys, monkeypatch):
    text = "\n".join(helped("variance", 100, capsys, monkeypatch))
    assert re.search(r"--seed INT ", text)
    assert re.search(r"--noise FLOAT ", text)
    assert re.search(r"--draws INT .*\n?.*\(default: 100000\)", text)
