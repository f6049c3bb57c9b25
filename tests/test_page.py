"""Pages: self-contained, harmless whatever the names, numbers to the right."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from rlgrad import plots
from rlgrad.page import Page
from rlgrad.stats import Interval

EVIL = "</title></style></pre><script>alert('1')</script>\"><img src=x onerror=alert(1)>&amp;"


class Read(HTMLParser):
    """Tags, their attributes, and text per tag; void tags are left alone."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    def of(self, tag: str) -> list[str]:
        return [text for kind, text in self.texts if kind == tag]


def page(name: str = "relax") -> Page:
    made = Page(f"Compare {name}", f"{name} wins")
    for title in ("Results", "Curves", name):
        made.section(title, f"about {name}")
    made.note(f"mind {name}", "warning")
    made.table([name, "IQM"], [[name, 1.5]], note=name, collapsed=name)
    rows = {name: Interval(2.0, 1.0, 3.0), "reinforce": Interval(5.0, 4.0, 6.0)}
    made.figure("variance", plots.bars(rows, "variance"), caption=name)
    made.figure("again", plots.bars(rows, "variance"), caption=name)
    made.details(name, name)
    return made


def test_a_page_is_well_formed_and_needs_nothing():
    text = page().html()
    read = Read(text)
    assert read.open == []
    kinds = {tag for tag, _ in read.tags}
    assert not kinds & {"script", "link", "img", "iframe", "object", "base"}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    references = [a[k] for _, a in read.tags for k in ("src", "href", "xlink:href") if a.get(k)]
    assert references
    assert all(each.startswith("#") for each in references)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each[1:] for each in references} <= set(ids)
    assert ("meta", {"charset": "utf-8"}) in read.tags
    assert "prefers-color-scheme: dark" in text
    assert page().html() == text


def test_names_are_harmless():
    plain, evil = Read(page().html()), Read(page(EVIL).html())
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    assert not any(key.startswith("on") for _, attributes in evil.tags for key in attributes)
    assert evil.of("title") == [f"Compare {EVIL}"]
    assert evil.of("td")[0] == EVIL
    assert evil.of("summary") == [EVIL, EVIL]
    assert "".join(evil.of("pre")) == EVIL
    assert evil.of("figcaption") == [EVIL, EVIL]


def test_numbers_stand_right():
    made = Page("t")
    made.table(
        ["agent", "seeds", "IQM", "steps", "better", "note"],
        [
            ["relax", 20, "484.2 [479.8, 489.9]", ">100,000", None, "3 failed"],
            ["a2c", 12_345, 1234.56, 0.123456, True, "fine"],
            ["ppo", None, float("nan"), float("inf"), False, ""],
        ],
        mark={1},
    )
    read = Read(made.html())
    heads = [attributes.get("class") for tag, attributes in read.tags if tag == "th"]
    assert heads == [None, "right", "right", "right", None, None]
    assert read.of("td") == [
        "relax", "20", "484.2 [479.8, 489.9]", ">100,000", "–", "3 failed",  # noqa: RUF001
        "a2c", "12,345", "1,235", "0.1235", "yes", "fine",
        "ppo", "–", "–", "inf", "no",  # noqa: RUF001
    ]  # fmt: skip
    rows = [attributes.get("class") for tag, attributes in read.tags if tag == "tr"]
    assert rows == [None, None, "marked", None]


def test_figures_are_kept_by_name():
    made = page()
    assert list(made.figures) == ["variance", "again"]
    assert plots.png(made.figures["variance"], 40) == plots.png(made.figures["again"], 40)


def test_a_table_has_a_cell_per_column():
    with pytest.raises(ValueError, match="zip"):
        Page("t").table(["a"], [["1", "2"]])
