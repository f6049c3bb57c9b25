"""What the policy thinks, drawn beside the environment's picture so that it hides nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rlgrad.watching.playing import Moment, Picture

WIDTH, EDGE = 304, 16
LEAST_HEIGHT, CHART = 400, 72
GROUND, TRACK = (22, 24, 30), (48, 52, 62)
TEXT, DIM, BAR, CHOSEN = (238, 240, 244), (160, 166, 178), (92, 156, 240), (255, 186, 64)
ROW, LEAST_ROW, TEXT_SIZE, NAMES = 24, 15, 14, 100  # of bars, in pixels

Row = tuple[str, float, bool]


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: the same letters on every machine."""
    import matplotlib

    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Text no wider than so many pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def magnified(picture: Picture) -> Picture:
    """Small pictures, such as Atari's, by a whole factor, so that the panel does not dwarf them."""
    factor = max(1, round(LEAST_HEIGHT / picture.shape[0]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def centred(picture: Picture, height: int = 0) -> Picture:
    """The picture on a ground of at least so many rows, with even width and height."""
    rows, columns = picture.shape[:2]
    height = max(rows + rows % 2, height)
    canvas = np.empty((height, columns + columns % 2, 3), dtype=np.uint8)
    canvas[:] = GROUND
    top = (height - rows) // 2
    canvas[top : top + rows, :columns] = picture
    return canvas


class Panel:
    """Draws moments of one policy.

    Args:
        title: first line, such as the environment.
        about: second line, such as agent, seed and checkpoint.
        names: of the categories of each factor of an action.
        episodes: how many there will be.
    """

    def __init__(
        self, title: str, about: str, names: Sequence[Sequence[str]], episodes: int
    ) -> None:
        self.title, self.about, self.names, self.episodes = title, about, names, episodes

    def bare(self, moment: Moment) -> Picture:
        """The picture alone."""
        return centred(magnified(moment.picture))

    def beside(self, moment: Moment) -> Picture:
        """The picture with the panel at its right; width and height are even, as video wants."""
        picture = magnified(moment.picture)
        height = max(picture.shape[0], LEAST_HEIGHT)
        height += height % 2
        panel = np.asarray(self._panel(moment, height))
        return np.concatenate([centred(picture, height), panel], 1)

    def _panel(self, moment: Moment, height: int) -> Image.Image:
        image = Image.new("RGB", (WIDTH, height), GROUND)
        draw = ImageDraw.Draw(image)
        y = self._head(draw, moment)
        bottom, rows = height - EDGE, self._rows(moment)
        # The line is drawn where all bars have room beside it.
        if len(moment.values) > 1 and bottom - y >= 20 + len(rows) * LEAST_ROW + CHART + EDGE:
            bottom -= CHART + EDGE
            _chart(draw, moment.values, bottom + EDGE)
        says = f"episode over: {moment.ended}" if moment.ended else "probability of each action"
        draw.text((EDGE, y), says, CHOSEN if moment.ended else DIM, _font(12))
        _bars(draw, rows, y + 20, bottom)
        return image

    def _head(self, draw: ImageDraw.ImageDraw, moment: Moment) -> int:
        """Title and numbers; returns where they end."""
        room, bold, small = WIDTH - 2 * EDGE, _font(17, True), _font(12)
        draw.text((EDGE, 12), _cut(self.title, bold, room), TEXT, bold)
        draw.text((EDGE, 36), _cut(self.about, small, room), DIM, small)
        episode = f"{moment.episode + 1} of {self.episodes}"
        value = f"{moment.values[-1]:.4g}" if moment.values else "no critic"
        lines = [
            ("episode", episode), ("step", f"{moment.step:,}"),
            ("return", f"{moment.total:.4g}"), ("value", value),
        ]  # fmt: skip
        y = 62
        for i, (name, number) in enumerate(lines):
            x = EDGE + (i % 2) * (room // 2)
            draw.text((x, y + i // 2 * 40), name, DIM, small)
            draw.text((x, y + 14 + i // 2 * 40), number, TEXT, _font(16, True))
        return y + 86

    def _rows(self, moment: Moment) -> list[Row]:
        """(name, probability, whether it was chosen) of each category of each factor."""
        several = len(self.names) > 1
        return [
            (f"{d}: {name}" if several else name, float(moment.probabilities[d, a]), chosen)
            for d, factor in enumerate(self.names)
            for a, name in enumerate(factor)
            for chosen in [bool(moment.chosen) and moment.chosen[d] == a]
        ]


def _bars(draw: ImageDraw.ImageDraw, rows: Sequence[Row], y: int, bottom: int) -> None:
    """As many as fit: those chosen and the most probable ones stay, in their order."""
    fit = (bottom - y) // LEAST_ROW
    if len(rows) > fit:
        ranked = sorted(range(len(rows)), key=lambda i: (not rows[i][2], -rows[i][1]))
        kept = sorted(ranked[: fit - 1])
        left = f"and {len(rows) - len(kept)} more"
        draw.text((EDGE, bottom - 14), left, DIM, _font(12))
        rows, bottom = [rows[i] for i in kept], bottom - 16
    step = min(ROW, (bottom - y) // max(len(rows), 1))
    for i, row in enumerate(rows):
        _bar(draw, y + i * step, step, *row)


def _bar(draw: ImageDraw.ImageDraw, y: int, step: int, name: str, p: float, chosen: bool) -> None:
    font = _font(min(TEXT_SIZE, step - 3), chosen)
    middle, high = y + step / 2, min(step - 4, 16)
    ink = CHOSEN if chosen else TEXT
    draw.text((EDGE, middle), _cut(name, font, NAMES - 8), ink, font, anchor="lm")
    left, right = EDGE + NAMES, WIDTH - EDGE - 60
    box = (left, middle - high / 2, right, middle + high / 2)
    draw.rectangle(box, TRACK)
    if p > 0:
        draw.rectangle(
            (*box[:2], left + max(1.0, p * (right - left)), box[3]), CHOSEN if chosen else BAR
        )
    draw.text((WIDTH - EDGE, middle), f"{100 * p:.1f}%", ink, font, anchor="rm")


def _chart(draw: ImageDraw.ImageDraw, values: Sequence[float], y: int) -> None:
    """The value along the episode, as a line between its least and its largest so far."""
    small = _font(11)
    draw.text((EDGE, y), "value along the episode", DIM, small)
    x: NDArray[np.float64] = np.linspace(EDGE, WIDTH - EDGE, len(values))
    v = np.array(values)
    top, bottom = y + 20, y + CHART - 4
    span = max(float(v.max() - v.min()), 1e-9)
    line = bottom - (v - v.min()) / span * (bottom - top)
    draw.line(list(zip(x.tolist(), line.tolist(), strict=True)), BAR, 2)
    least, most = f"{v.min():.4g}", f"{v.max():.4g}"
    draw.text((WIDTH - EDGE, y), f"{least} to {most}", DIM, small, anchor="ra")
