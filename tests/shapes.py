"""Every signature of the package is checked at run time, for less than jaxtyping's hook takes.

The checks are the same: beartype's of types, jaxtyping's of shapes, each call with its own sizes of
the named axes. jaxtyping's own decorator binds each call to its signature and checks arguments
again beside the result; this one asks once.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from types import FunctionType, SimpleNamespace
from typing import Any, get_args, get_type_hints

from beartype import beartype
from jaxtyping import AbstractArray, config, jaxtyped

SIZES = jaxtyped("context")
"""Entered by a call: axes get their sizes anew."""


def resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation without quotes; ``Any`` where it names what only a type checker imports."""
    if not isinstance(annotation, str):
        return annotation
    try:
        holder = SimpleNamespace(__annotations__={"it": annotation})
        return get_type_hints(holder, names, include_extras=True)["it"]
    except Exception:  # whatever a missing name leads to
        return Any


def has_shape(annotation: Any) -> bool:
    """Whether an annotation speaks of tensors and their axes."""
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(has_shape(each) for each in get_args(annotation))


def beartyped(function: FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    """The function with its types checked; its own annotations stay as they are."""
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__,
        function.__closure__,
    )  # fmt: skip
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, hints
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return beartype(copy)


def checked(thing: Any) -> Any:
    """Check what a function takes and gives, or what a dataclass is made of."""
    if inspect.isclass(thing):
        if is_dataclass(thing) and isinstance(vars(thing).get("__init__"), FunctionType):
            thing.__init__ = checked(thing.__init__)
        return thing
    if not isinstance(thing, FunctionType) or inspect.isgeneratorfunction(thing):
        return jaxtyped(thing, typechecker=beartype)
    hints = {
        name: resolved(each, thing.__globals__) for name, each in thing.__annotations__.items()
    }
    inner = beartyped(thing, hints)
    shaped = any(map(has_shape, hints.values()))

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        if config.jaxtyping_disable:
            return thing(*args, **kwargs)
        if not shaped:
            return inner(*args, **kwargs)
        with SIZES:
            return inner(*args, **kwargs)

    return call


class Decorate(ast.NodeTransformer):
    """``@__checked__`` under the other decorators of every function, and above those of classes."""

    def mark(self, node: Any) -> ast.expr:
        """The decorator, on the line of what it decorates."""
        return ast.copy_location(ast.Name("__checked__", ast.Load()), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list.append(self.mark(node))
        self.generic_visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.decorator_list.insert(0, self.mark(node))
        self.generic_visit(node)
        return node
