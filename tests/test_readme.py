"""Every Python block of the README and docs runs; every rlgrad command in them parses."""

import re
import shlex
from pathlib import Path

import pytest

from rlgrad import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        code = re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
        found += [(f"{page.name}:{i}", block) for i, block in enumerate(code)]
    return found


@pytest.mark.parametrize(("name", "block"), blocks("python"), ids=lambda x: x[:40])
def test_python_block_runs(name, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, name, "exec"), {})


def commands() -> list[str]:
    lines = [line for _, block in blocks("sh") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("rlgrad ")]


@pytest.mark.parametrize("command", commands())
def test_command_parses(command, capsys):
    # --help makes every command parse its flags and stop before it runs.
    with pytest.raises(SystemExit) as stop:
        cli._run(shlex.split(command)[1], [*shlex.split(command)[2:], "--help"])
    assert stop.value.code == 0
    assert "usage: rlgrad" in capsys.readouterr().out


def test_the_readme_has_blocks_to_run():
    assert len(blocks("python")) >= 2
    assert len(commands()) >= 4


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_the_reading_path_is_as_long_as_the_readme_says():
    text = (ROOT / "README.md").read_text("utf-8")
    said, path = re.search(
        r"To read .*?, some ([\d,]+) lines: (.*?)\.\n\n", text, re.DOTALL
    ).groups()
    files = re.findall(r"`([\w/]+\.py)`", path)
    lines = sum(len((ROOT / "rlgrad" / file).read_text("utf-8").splitlines()) for file in files)
    assert len(files) == 7
    assert lines == pytest.approx(int(said.replace(",", "")), abs=60)
