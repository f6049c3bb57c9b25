"""What all figures share: colours by name, labels at line ends, and figures as PNG and SVG.

Nothing here touches matplotlib's global state: settings hold within ``styled`` only, and figures
are made without pyplot. What is drawn in ``INK`` takes the colour of the text around an
inlined SVG, so that one picture reads on a light page and on a dark one.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

INK = "#1b1c1f"
WIDTH = 6.4  # inches
ROW = 0.3  # inches of a row of a chart
# Each has a contrast of at least 3 to a white and to a near-black page, and differs from the
# others for colour-blind eyes too; names beside lines and rows say the rest.
COLOURS = (
    "#2e73db", "#d9730d", "#16936a", "#cc4fa0", "#8a63d2", "#9a6a3c", "#2592bd", "#d6403a",
)  # fmt: skip
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_STYLE = {
    "axes.edgecolor": INK, "axes.facecolor": "none", "axes.grid": True, "axes.axisbelow": True,
    "axes.labelcolor": INK, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlesize": 10, "axes.titleweight": "bold", "figure.facecolor": "none",
    "font.size": 10, "grid.alpha": 0.13, "grid.color": INK, "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round", "svg.fonttype": "none", "svg.hashsalt": "rlgrad",
    "text.color": INK, "text.parse_math": False, "xtick.color": INK, "xtick.major.size": 3,
    "ytick.color": INK, "ytick.major.size": 3,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """These settings and matplotlib's defaults, whatever the user's are; all put back after."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # A name in a script that the fallback font lacks; an SVG shows it all the same.
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield


class Palette:
    """One look per name over all figures of a report.

    Args:
        names: in order.
        peers: of them, drawn with dashes and squares.
    """

    def __init__(self, names: Sequence[str], peers: Collection[str] = ()) -> None:
        self._place = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self._peers = frozenset(peers)

    def colour(self, name: str) -> str:
        """As ``#rrggbb``; there are eight, after which they come again."""
        return COLOURS[self._place.get(name, 0) % len(COLOURS)]

    def marker(self, name: str) -> str:
        """Matplotlib's letter."""
        return "s" if name in self._peers else "o"

    def dashes(self, name: str) -> str:
        """Matplotlib's line style."""
        return "--" if name in self._peers else "-"


def blank(height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of the common width and its axes `[rows, columns]`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def short(number: float) -> str:
    """A number on an axis: 0, 0.02, 475, 20k, 1.5M, 1e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * (10 if letter == "k" else 1):
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}".replace("-", "\N{MINUS SIGN}")


def settle(figure: Figure) -> None:
    """Lay the figure out for good, so that it is drawn the same however often."""
    for _ in range(2):  # the first pass measures, the second one places
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def brief(name: str, most: int = 24) -> str:
    """A name as a figure has room for it; the tables beside it have it whole."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def number_axis(axis: Axis) -> None:
    """Short numbers at the ticks, none between them; call when the limits are known."""
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        # Over little more than a decade powers of ten alone may leave an axis without a number.
        subs = (1.0,) if high > 30 * low else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(lambda x, _: short(x))
    axis.set_minor_formatter(NullFormatter())


# ------------------------------------------------------------------------ labels at line ends


class End(NamedTuple):
    """The end of a line, in data coordinates, with its label."""

    x: float
    y: float
    text: str
    colour: str


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places nearest to the ones wanted (least squares) that keep a gap and the bounds.

    Of equal ones the first comes out on top.
    """
    order = sorted(range(len(wanted)), key=lambda at: (wanted[at], -at))
    blocks: list[list[float]] = []  # sums and lengths of what has run into one another
    for place, at in enumerate(order):
        blocks.append([wanted[at] - place * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] > blocks[-1][0] * blocks[-2][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    levels = [total / count for total, count in blocks for _ in range(int(count))]
    found = np.empty(len(wanted))
    top = max(low, high - gap * (len(wanted) - 1))
    found[order] = np.clip(levels, low, top) + gap * np.arange(len(wanted))
    return found.tolist()


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Names right of the axes, beside their lines' ends, with a thin line where they are moved."""
    texts = [
        axes.text(
            1.035, 0.5, brief(end.text), color=end.colour, transform=axes.transAxes, va="center"
        )
        for end in ends
    ]
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    settle(figure)
    places = np.array([(end.x, end.y) for end in ends]).reshape(-1, 2)
    points = axes.transLimits.transform(axes.transScale.transform(places)).clip(0, 1)
    gap = 1.3 * 10 * figure.dpi / 72 / axes.get_window_extent().height
    for text, end, point, y in zip(
        texts,
        ends,
        points,
        spread([y for _, y in points], gap, 0.4 * gap, 1 - 0.4 * gap),
        strict=True,
    ):
        text.set_y(y)
        (line,) = axes.plot(*zip(point, (1.028, y), strict=True), transform=axes.transAxes)
        line.set(color=end.colour, linewidth=0.8, alpha=0.55, clip_on=False, zorder=1)


# ---------------------------------------------------------------------------------- as files


def png(figure: Figure, dpi: int = 150) -> bytes:
    """As a PNG on white; the same figure gives the same bytes."""
    with styled(), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        return file.getvalue()


def svg(figure: Figure, title: str = "", prefix: str = "") -> str:
    """As an SVG element to be inlined in HTML: text as text, no background, ink as the text.

    Args:
        figure: the figure.
        title: read out in place of the picture.
        prefix: of ids, unique in the page; by default a hash of the picture.
    """
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled(), io.StringIO() as file:
        figure.savefig(file, format="svg", facecolor="none", metadata=empty)
        text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A style sheet would hold for the whole page.
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans',[^;\"]*sans-serif", _FONT, text)
    text = text.replace(INK, "currentColor")
    prefix = prefix or hashlib.sha256(text.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(
        r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text
    )
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    label = f'role="img" aria-label="{escape(title)}"' if title else 'aria-hidden="true"'
    return re.sub(
        r'<svg ([^>]*?)\s*(?:width|height)="[^"]*"([^>]*?)\s*(?:width|height)="[^"]*"',
        f'<svg {label} stroke-linejoin="round" \\1\\2',
        text,
        count=1,
    )
