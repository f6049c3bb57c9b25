"""What ``--help`` says of a flag: its field's docstring as a paragraph, and no default of None."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any

import tyro


def _paragraphs(kind: type) -> Iterator[tuple[str, str]]:
    """Names of a dataclass's fields with their docstrings, each as one line."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except OSError:  # installed without its source: no help texts, but all flags
        return
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    for field, text in pairwise(tree.body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            yield field.target.id, " ".join(str(text.value.value).replace("``", "").split())


def _hint(default: str) -> str:
    """What stands behind the text: nothing where there is no value."""
    return "" if default in ("None", "") else f"(default: {default})"


def _look(hint: Any, text: str) -> dict[str, Any]:
    """Arguments of ``tyro.conf.arg``: an optional number or text is called what it is."""
    inner = typing.get_args(hint)
    plain = len(inner) == 2 and inner[1] is types.NoneType and inner[0] in (int, float, str)
    name = {"metavar": inner[0].__name__.upper()} if plain else {}
    return {"help": text, "help_behavior_hint": _hint, **name}


def flow(*kinds: type) -> None:
    """Annotate dataclasses for tyro, which would keep the line breaks of docstrings.

    Args:
        *kinds: classes whose fields become flags; their values stay what they are.
    """
    for kind in {base: None for each in kinds for base in each.__mro__}:
        if not dataclasses.is_dataclass(kind):
            continue
        hints = typing.get_type_hints(kind, include_extras=True)
        for name, text in _paragraphs(kind):
            if typing.get_origin(hints[name]) is not Annotated:
                look = _look(hints[name], text)
            else:  # it has a look of its own
                look = {"help": text, "help_behavior_hint": _hint}
            kind.__annotations__[name] = Annotated[hints[name], tyro.conf.arg(**look)]
