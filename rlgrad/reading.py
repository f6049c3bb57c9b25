"""Files that may come from a stranger: read as data, within limits, or refused with the reason.

Every reader takes a regular file of bounded size and gives plain data of bounded depth, whose
numbers are finite (TOML: integers of 64 bits) and whose dates are refused. What is wrong is a
``ValueError`` or an ``OSError``; whoever knows what the file is for says so to the user.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rlgrad.errors import shown

CARD = 1 << 20
"""Most bytes of a card."""
TEXT = 1 << 26
"""Most bytes of a JSON file, and of a line of JSONL."""
RECORD = 1 << 30
"""Most bytes of a record that is held as a whole."""
_WIDEST = 1 << 64
# tomllib takes time that grows with the square of a dotted key's parts.
_DOTTED = re.compile(r"(?<![\w-])(?:(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')[ \t]*\.[ \t]*){32}")


def installed_memory() -> int:
    """Bytes of memory of this machine; a number beyond all where it does not tell."""
    if not hasattr(os, "sysconf"):
        return 1 << 63
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """A regular file, open for reading; a pipe or a device would hang or never end.

    Raises:
        OSError: where there is none that can be read.
        ValueError: for anything else than a regular file of at most ``most`` bytes.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        if most is not None and about.st_size > most:
            raise ValueError(f"it has {about.st_size:,} bytes; expected at most {most:,}")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _text(path: Path, most: int) -> str:
    with open_regular(path, most) as file:
        return file.read(most + 1).decode("utf-8")


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is no finite number")
    return number


def _whole(text: str) -> int:
    if not -_WIDEST < (number := int(text)) < _WIDEST:
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def parse_json(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity, nothing that overflows.

    Raises:
        ValueError: for anything else, also where it is nested too deeply.
    """
    try:
        return json.loads(text, parse_float=_number, parse_int=_whole, parse_constant=_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file.

    Raises:
        OSError, ValueError: where it cannot be read, or holds none.
    """
    table = parse_json(_text(path, TEXT))
    if not isinstance(table, dict):
        raise ValueError(f"it holds {shown(table)}; expected a table")
    return table


def read_rows(path: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Tables in a JSONL file, one per line.

    Args:
        path: of the file.
        most: bytes from its beginning that are read; None: all.

    Raises:
        OSError: where it cannot be read.
        ValueError: naming the line that holds none.
    """
    left = math.inf if most is None else most
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(TEXT + 1), b""), 1):
            part, left = line[: int(min(left, len(line)))], left - len(line)
            try:
                if not part.endswith(b"\n"):
                    raise ValueError("it does not end")
                row = parse_json(part.decode("utf-8"))
                if not isinstance(row, dict):
                    raise ValueError(f"it is {shown(row)}; expected a table")
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            yield row
            if left <= 0:
                return


def check_plain(value: Any, depth: int = 0) -> None:
    """Refuse what a card never holds.

    Raises:
        ValueError: for dates and the like, integers of more than 64 bits, and deep nesting.
    """
    if depth > 64:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        for each in value.values():
            check_plain(each, depth + 1)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_plain(each, depth + 1)
    elif isinstance(value, int) and not -_WIDEST // 2 <= value < _WIDEST // 2:
        raise ValueError(f"it holds a number of {value.bit_length()} bits; expected at most 64")
    elif not isinstance(value, (str, int, float)):
        raise ValueError(f"it holds a {type(value).__name__}, {value}, which no card does")


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file.

    Raises:
        OSError, ValueError: where it cannot be read.
    """
    text = _text(path, CARD)
    if found := _DOTTED.search(text):
        raise ValueError(f"the key {found[0][:20]}... has too many parts")
    try:
        table = tomllib.loads(text)
        check_plain(table)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return table


def conform(value: Any, form: Any, name: str = "it") -> None:
    """Check that data has a form.

    Args:
        value: the data.
        form: a type (``float`` takes ints too); None; a tuple of forms, of which one is to fit; a
            list of one form, for each member; a table of forms, where more keys may stand and
            keys that end in "?" may be missing.
        name: of the data, for the message.

    Raises:
        ValueError: naming the place, what came and what was expected.
    """
    if isinstance(form, dict) and isinstance(value, dict):
        for key, each in form.items():
            plain = key.removesuffix("?")
            if plain in value:
                conform(value[plain], each, f"{name}.{plain}")
            elif plain == key:
                raise ValueError(f"{name} has no {key!r}")
    elif isinstance(form, list) and isinstance(value, list):
        for i, each in enumerate(value):
            conform(each, form[0], f"{name}[{i}]")
    elif isinstance(form, tuple):
        _one_of(value, form, name)
    elif not _is(value, form):
        raise ValueError(f"{name} is {shown(value, 40)}; expected {_called(form)}")


def _is(value: Any, form: Any) -> bool:
    if form is None:
        return value is None
    if isinstance(form, (dict, list)):
        return False
    return type(value) is form or (form is float and type(value) is int)


def _called(form: Any) -> str:
    if isinstance(form, tuple):
        return " or ".join(map(_called, form))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if form is None:
        return "null"
    if isinstance(form, type):
        return words[form]
    return "a table" if isinstance(form, dict) else "a list"


def _one_of(value: Any, forms: tuple[Any, ...], name: str) -> None:
    for form in forms:
        if isinstance(form, type(value)) and isinstance(form, (dict, list)):
            return conform(value, form, name)
    if not any(_is(value, form) for form in forms):
        raise ValueError(f"{name} is {shown(value, 40)}; expected {_called(forms)}")
    return None
