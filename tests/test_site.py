"""The documentation site builds without a warning, with every page in its navigation."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlgrad
import rlgrad.callbacks

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_every_page_is_in_the_navigation_once():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r": (\w+\.md)$", nav, flags=re.MULTILINE)) == PAGES


def test_pictures_are_small():
    pictures = list((ROOT / "docs/images").iterdir())
    assert len(pictures) >= 10
    assert not [path.name for path in pictures if path.stat().st_size > 300_000]


def test_the_reference_has_every_public_name():
    named = re.findall(
        r"^::: rlgrad\.(\S+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE
    )
    known = {name.rpartition(".")[2] for name in named}
    unlisted = {"VectorEnvError", "__version__"}
    assert set(rlgrad.__all__) - unlisted <= known
    assert set(rlgrad.callbacks.__all__) <= known


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason='needs pip install "rlgrad[docs]"'
)
def test_the_site_builds_strictly(tmp_path):
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert {page.with_suffix(".md").name for page in site.glob("*.html")} >= set(PAGES)
    reference = (site / "reference.html").read_text("utf-8")
    assert 'id="rlgrad.training.train"' in reference
    assert "total_timesteps" in reference
    # Nothing is loaded from another host: the theme would fetch a script for Mermaid's diagrams.
    loads = re.compile(r'<(?:script|img|iframe|source)[^>]*src="?(?:https?:)?//|class="?mermaid')
    sheets = re.compile(r'<link[^>]*rel="?(?:stylesheet|preconnect|icon)[^>]*href="?(?:https?:)?//')
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        assert not loads.search(text), page.name
        assert not sheets.search(text), page.name
