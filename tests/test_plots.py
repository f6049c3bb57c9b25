"""Figures: nothing cut or covered, the same bytes again, and no trace in matplotlib's state."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import rlgrad
from rlgrad import plots
from rlgrad.drawing import COLOURS, INK, short, spread, styled
from rlgrad.stats import Curve, Interval

INF, NAN = float("inf"), float("nan")
NASTY = ["<script>alert(1)</script>", "$x_{", "_hidden", "名前 é", "a" * 40, "50 %", "&amp;"]
MANY = [f"agent-{i}" for i in range(10)]
GRID = np.linspace(0.0, 1e5, 21)


def curve(level: float) -> Curve:
    y = np.full(21, level)
    y[15:] = NAN if level < 5 else level
    return Curve(GRID, y, y - 1, y + 1, np.full(21, 20))


def runs(names: list[str]) -> dict:
    times = np.arange(1.0, 21.0) * 1000
    return {n: (times, np.arange(20) < 5 * i) for i, n in enumerate(names)}


def dots(names: list[str]) -> dict[str, Interval]:
    odd = [Interval(INF, 2.0, INF), Interval(0.0, 0.0, 0.0), Interval(NAN, NAN, NAN)]
    return dict(
        zip(names, [*odd, *(Interval(i, i - 0.5, INF) for i in range(1, 20))], strict=False)
    )


def matrix(names: list[str]) -> list[list[Interval | None]]:
    cells = np.linspace(0, 1, len(names) ** 2).reshape(len(names), -1)
    return [[Interval(x, max(x - 0.2, 0), min(x + 0.2, 1)) for x in row] for row in cells]


DRAWN = {
    "curves": lambda names: plots.curves(
        {n: curve(float(i)) for i, n in enumerate(names)}, "steps", "return", {"solved": 5.0}
    ),
    "curves-log": lambda names: plots.curves(
        {n: curve(100.0) for n in names}, "seconds", "variance", log=True, log_x=True
    ),
    "survival": lambda names: plots.survival(runs(names), "env steps"),
    "intervals": lambda names: plots.intervals({k: dots(names) for k in ("IQM", "mean", "x", "y")}),
    "bars": lambda names: plots.bars(dots(names), "variance", names[4], names[5:]),
    "improvement": lambda names: plots.improvement(names, matrix(names)),
    "stacked": lambda names: plots.stacked(
        {n: {"action": 0.93, "trajectory": 0.07, "state": -0.01} for n in names}, "share"
    ),
}


EVERY = pytest.mark.parametrize("kind", DRAWN)


def check_frame(figure: Figure) -> None:
    with styled():
        drawn = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    assert drawn.x0 > -0.02
    assert drawn.y0 > -0.02
    assert drawn.x1 < width + 0.02
    assert drawn.y1 < height + 0.02


@EVERY
def test_odd_names_are_not_cut(kind):
    check_frame(DRAWN[kind](NASTY))


@pytest.mark.slow
@EVERY
def test_many_names_are_not_cut(kind):
    check_frame(DRAWN[kind](MANY))


@EVERY
def test_svg_stands_in_a_page_with_others(kind):
    figure = DRAWN[kind](NASTY)
    first, second = (plots.svg(figure, "a <title>", prefix) for prefix in ("a", "b"))
    assert plots.svg(figure, "a <title>", "a") == first
    tree = ET.fromstring(first)
    assert tree.get("aria-label") == "a <title>"
    assert tree.get("viewBox")
    assert tree.get("width") is None
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', first))
    assert used == ids[0]
    assert INK not in first
    assert "currentColor" in first
    assert "<style" not in first
    assert "<metadata" not in first
    assert "DejaVu" not in first
    assert "<script" not in first
    outside = set(re.findall(r'https?://[^"\s]+', first))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@EVERY
def test_png_is_the_same_again_on_white(kind):
    figure = DRAWN[kind](NASTY[:5])
    data = plots.png(figure, dpi=50)
    assert data == plots.png(figure, dpi=50)
    assert data[:4] == b"\x89PNG"
    assert int.from_bytes(data[16:20], "big") == 320


def test_a_users_settings_neither_matter_nor_change():
    before = DRAWN["bars"](NASTY)
    with matplotlib.rc_context({"font.size": 31, "axes.grid": False, "lines.linewidth": 9}):
        known = dict(matplotlib.rcParams)
        after = DRAWN["bars"](NASTY)
        assert plots.svg(after) == plots.svg(before)
        assert dict(matplotlib.rcParams) == known


def test_pyplot_is_not_imported():
    code = (
        "import sys, rlgrad.plots as p; from rlgrad.stats import Interval\n"
        "p.png(p.bars({'a': Interval(1.0, 0.5, 2.0)}, 'x'))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    root = Path(rlgrad.__file__).parent.parent
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("kind", ["curves", "curves-log", "survival"])
def test_labels_neither_overlap_nor_cover_data(kind):
    figure = DRAWN[kind](MANY)
    (axes,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == len(MANY) + (kind == "curves")
    assert all(box.x0 > axes.get_window_extent(renderer).x1 for box in boxes)
    for a, b in itertools.combinations(sorted(boxes, key=lambda box: box.y0), 2):
        assert b.y0 >= a.y0 + 0.6 * a.height


def test_places_are_spread_as_little_as_needed():
    assert spread([0.1, 0.9], 0.1, 0.0, 1.0) == [0.1, 0.9]
    assert spread([0.5, 0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.6, 0.5, 0.4])
    assert spread([1.0, 1.0, 0.2], 0.1, 0.0, 1.0) == pytest.approx([1.0, 0.9, 0.2])
    assert spread([0.52, 0.5, 0.0], 0.1, 0.0, 1.0) == pytest.approx([0.56, 0.46, 0.0])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (475.0, "475"), (2000.0, "2000"), (2e4, "20k"), (1.5e6, "1.5M"), (-3.0, "−3"),  # noqa: RUF001
     (1e-5, "1e−05"), (3e9, "3G")],  # noqa: RUF001
)  # fmt: skip
def test_short_numbers(number, text):
    assert short(number) == text


# ----------------------------------------------------------------------------------- colours


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_show_on_light_and_dark_pages(colour):
    def contrast(page: str) -> float:
        low, high = sorted((luminance(colour), luminance(page)))
        return (high + 0.05) / (low + 0.05)

    assert contrast("#ffffff") >= 3
    assert contrast("#15171b") >= 3


def test_a_name_keeps_its_look():
    palette = plots.Palette(["a", "b", "a", "peer"], peers=["peer"])
    assert palette.colour("b") == plots.Palette(["a", "b"]).colour("b") == COLOURS[1]
    assert (palette.dashes("a"), palette.dashes("peer")) == ("-", "--")
    assert len({palette.colour(name) for name in ("a", "b", "peer")}) == 3
    figure = plots.curves({"b": curve(9.0), "peer": curve(8.0)}, "x", "y", palette=palette)
    shown = {line.get_color() for line in figure.axes[0].lines}
    assert shown == {palette.colour("b"), palette.colour("peer")}
