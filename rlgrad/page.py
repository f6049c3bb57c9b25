"""A report as one self-contained HTML file: no network, no scripts, light and dark."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1c1f; --soft: #5c6068;
  --line: #dfe1e6; --tint: #f5f6f8; --mark: #e9f1fd; --link: #2463c0; --warn: #b3560a;
  --shade: #0003; }
@media (prefers-color-scheme: dark) { :root { --page: #15171b; --ink: #e7e8ea; --soft: #a2a7b0;
  --line: #353941; --tint: #1d2026; --mark: #1c2c45; --link: #7fb0f5; --warn: #eb9c50;
  --shade: #fff3; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.5rem, 1.1rem + 2vw, 2.1rem); line-height: 1.2; margin: 0 0 .6rem;
  letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1.1rem; letter-spacing: -.01em;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
p { margin: .5rem 0 .9rem; max-width: 46rem; overflow-wrap: anywhere; white-space: pre-line; }
.lead { font-size: 1.1rem; color: var(--soft); }
nav { margin: 1.3rem 0 0; display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; font-size: .95rem; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin: 1rem 0; background: linear-gradient(90deg, var(--page) 40%,
    transparent) left / 2.5rem 100% no-repeat local, linear-gradient(270deg, var(--page) 40%,
    transparent) right / 2.5rem 100% no-repeat local, linear-gradient(90deg, var(--shade),
    transparent) left / .8rem 100% no-repeat scroll, linear-gradient(270deg, var(--shade),
    transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: left; white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
td.wide { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
.right { text-align: right; }
tr.marked td { background: var(--mark); font-weight: 600; }
.small { font-size: .88rem; color: var(--soft); margin-top: .4rem; }
figure { margin: 1.4rem 0; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 20rem; max-width: 46rem; height: auto; }
figcaption { font-size: .88rem; color: var(--soft); margin-top: .3rem; max-width: 44rem;
  overflow-wrap: anywhere; }
.note { border-left: 4px solid var(--link); background: var(--tint); padding: .7rem 1rem;
  margin: 1rem 0; border-radius: 0 .4rem .4rem 0; max-width: 48rem; }
.note.warning { border-left-color: var(--warn); }
.note p { margin: 0; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--link); }
pre { overflow-x: auto; background: var(--tint); padding: .9rem 1rem; border-radius: .4rem;
  font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 34rem) { main { padding-top: 1.5rem; } th, td { padding: .38rem .55rem; } }
@media print { :root { --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --tint: #f4f4f4;
    --mark: #eee; --link: #000; } nav { display: none; } figure, tr { break-inside: avoid; }
  figure svg { min-width: 0; } h2 { break-after: avoid; } figure, .scroll { overflow: visible; } }
"""
_NUMBER = re.compile(r"[~<>≤≥±+\N{MINUS SIGN}-]?\s?(\d[\d,.]*|inf)")
_LONG = 48  # characters, above which a cell wraps


def _text(cell: Any) -> str:
    """A cell: numbers with four digits, no more than that; None as a dash."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "\N{EN DASH}"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if 1000 <= abs(cell) < 1e9 else f"{cell:.4g}"
    return str(cell)


def _numeric(cells: Sequence[Any]) -> bool:
    known = [_text(cell) for cell in cells if cell is not None and cell != ""]
    return bool(known) and all(text == "\N{EN DASH}" or _NUMBER.match(text) for text in known)


class Page:
    """A report, built from top to bottom; everything given is escaped.

    Args:
        title: of the page.
        lead: what it says, in a sentence or two.

    Attributes:
        figures: by name, those of the page, for files beside it.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.figures: dict[str, Figure] = {}
        self._title = title
        self._lead = lead
        self._sections: list[str] = []
        self._parts: list[str] = []

    def section(self, title: str, text: str = "") -> None:
        """Begin a section."""
        self._sections.append(title)
        self._parts.append(f'<h2 id="section-{len(self._sections)}">{escape(title)}</h2>')
        if text:
            self._parts.append(f"<p>{escape(text)}</p>")

    def note(self, text: str, kind: Literal["info", "warning"] = "info") -> None:
        """A remark that stands out."""
        self._parts.append(f'<div class="note {kind}" role="note"><p>{escape(text)}</p></div>')

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        note: str = "",
        mark: Collection[int] | None = None,
        collapsed: str = "",
    ) -> None:
        """A table; columns of numbers, or of texts that begin with one, stand right.

        Args:
            columns: their titles.
            rows: of cells: texts, numbers, None.
            note: below it.
            mark: rows to stress, counted from 0.
            collapsed: a title under which the table is folded away.
        """
        right = [_numeric([row[at] for row in rows]) for at in range(len(columns))]
        head = "".join(
            f'<th scope="col"{" class=right" if r else ""}>{escape(c)}</th>'
            for c, r in zip(columns, right, strict=True)
        )
        body = "".join(
            f"<tr{' class=marked' if mark and at in mark else ''}>{_cells(row, right)}</tr>"
            for at, row in enumerate(rows)
        )
        below = f'<p class="small">{escape(note)}</p>' if note else ""
        text = (
            '<div class="scroll" tabindex="0"><table><thead><tr>'
            f"{head}</tr></thead><tbody>{body}</tbody></table></div>{below}"
        )
        self._parts.append(_folded(collapsed, text) if collapsed else text)

    def figure(self, name: str, figure: Figure, caption: str = "") -> None:
        """A figure, as an SVG.

        Args:
            name: as the file beside the page would be called, without its ending.
            figure: of ``rlgrad.plots``.
            caption: below it.
        """
        from rlgrad.drawing import svg

        drawn = svg(figure, title=caption or name, prefix=f"f{len(self.figures)}")
        self.figures[name] = figure
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(f"<figure>{drawn}{below}</figure>")

    def details(self, title: str, text: str) -> None:
        """A long text as it is, folded away."""
        self._parts.append(_folded(title, f"<pre>{escape(text)}</pre>"))

    def html(self) -> str:
        """The file."""
        links = "".join(
            f'<a href="#section-{at}">{escape(title)}</a>'
            for at, title in enumerate(self._sections, 1)
        )
        lead = f'<p class="lead">{escape(self._lead)}</p>' if self._lead else ""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            f"<main>\n<h1>{escape(self._title)}</h1>\n{lead}\n"
            + (f"<nav>{links}</nav>\n" if len(self._sections) > 2 else "")
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )


def _cells(row: Sequence[Any], right: Sequence[bool]) -> str:
    texts = [_text(cell) for cell in row]
    kinds = [
        " class=right" if r else " class=wide" if len(text) > _LONG else ""
        for text, r in zip(texts, right, strict=True)
    ]
    return "".join(f"<td{k}>{escape(text)}</td>" for text, k in zip(texts, kinds, strict=True))


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"
