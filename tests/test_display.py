"""Lines that people read on a terminal: none is cut, none broken within a word."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rlgrad.cli import usage
from rlgrad.display import Display, Status, describe, short
from rlgrad.terminal import fitted, show

LONG = Status(999_936, 1_000_192, 12, 20, 12, -1234.56, 122_512.3)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.6, "1k"), (58_649, "58.6k"), (999_936, "1M"), (1.234e6, "1.23M"),
     (123_456, "123k"), (2e9, "2G")],
)  # fmt: skip
def test_three_digits_and_a_unit(number, text):
    assert short(number) == text


def test_the_progress_line_shows_everything_in_80_columns():
    assert len(describe(LONG)) <= 60
    display = Display("x")
    display.update(LONG)
    page = Console(width=80, file=io.StringIO())
    page.print(display._screen.progress.get_renderable())
    (line,) = page.file.getvalue().splitlines()
    assert "100% 1M/1M steps  return -1235  12/20 running  12 solved  123k/s" in line
    assert "…" not in line


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_overview_is_broken_between_words(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = usage().splitlines()
    examples = [line for line in lines if line.startswith("  rlgrad ")]
    assert max(len(line) for line in lines if line not in examples) < columns
    assert "  compare    Compare agents over many seeds" in usage()


def test_a_long_line_is_broken_on_a_terminal_alone():
    line = "rlgrad: this is more than a narrow terminal holds, see /a/path/that/has/no/spaces"
    plain, narrow = (
        Console(width=40, file=io.StringIO()),
        Console(width=40, file=io.StringIO(), force_terminal=True, color_system=None),
    )
    show(plain, line)
    assert plain.file.getvalue() == f"{line}\n"
    show(narrow, line)
    shown = narrow.file.getvalue().splitlines()
    assert [part.strip() for part in shown] == [
        "rlgrad: this is more than a narrow", "terminal holds, see",
        "/a/path/that/has/no/spaces",
    ]  # fmt: skip
    assert fitted("short", 40) == "short"
