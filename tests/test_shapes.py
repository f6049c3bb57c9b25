"""The checks that all tests run under: no weaker than those of jaxtyping's own hook."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
import shapes
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, Int, TypeCheckError, config, jaxtyped
from torch import Tensor

import rlgrad

REFUSED = (BeartypeCallHintViolation, TypeCheckError)
ONE, TWO = torch.zeros(3), torch.zeros(3, 2)


def product(x: Float[Tensor, "n k"], y: Float[Tensor, " k"], times: int = 1) -> Float[Tensor, " n"]:
    return times * (x @ y) if times else x


def many(
    *each: Float[Tensor, " n"], **named: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "2 n"], int]:
    return (torch.stack(each), len(named))


def listed(each: list[Float[Tensor, " n"]], made: Callable[[], int] | None = None) -> int:
    return made() if made else len(each)


def unknown(x: Float[Tensor, " n"], y: OnlyForTypeCheckers) -> Float[Tensor, " n"]:
    return x if y is None else y


def pair():
    @dataclasses.dataclass(frozen=True)
    class Pair:
        first: Float[Tensor, "n k"]
        second: Float[Tensor, " k"] | None = None

    return Pair


CALLS = [
    (product, (TWO, torch.ones(2)), {}, True),
    (product, (TWO, torch.ones(3)), {}, False),  # k is 2 and 3
    (product, (TWO, torch.ones(2)), {"times": 2.0}, False),
    (product, (TWO, torch.ones(2).long()), {}, False),
    (product, (TWO, torch.ones(2)), {"times": 0}, False),  # gives [3, 2]
    (product, (ONE, ONE), {}, False),
    (many, (ONE, ONE), {"a": torch.zeros(3).long()}, True),
    (many, (ONE, torch.zeros(4)), {}, False),
    (many, (ONE, ONE), {"a": torch.zeros(2).long()}, False),
    (many, (ONE,), {}, False),  # gives [1, 3]
    (listed, ([ONE],), {}, True),
    (listed, ([TWO],), {}, False),
    (listed, ((ONE,),), {}, False),
    (listed, ([ONE], lambda: "not a number"), {}, False),
    (unknown, (ONE, None), {}, True),
    (unknown, (ONE, torch.zeros(4)), {}, False),  # an n of another size comes back
    (pair, (TWO, torch.ones(2)), {}, True),
    (pair, (TWO,), {}, True),
    (pair, (TWO, torch.ones(3)), {}, False),
    (pair, (ONE,), {}, False),
]


@pytest.mark.parametrize(("thing", "given", "named", "fits"), CALLS)
def test_what_jaxtyping_refuses_is_refused_and_nothing_else(thing, given, named, fits):
    for check in (shapes.checked, functools.partial(jaxtyped, typechecker=beartype)):
        call = check(thing() if thing is pair else thing)
        if fits:
            call(*given, **named)
            continue
        with pytest.raises(REFUSED):
            call(*given, **named)


def test_each_call_has_its_own_sizes():
    inner = shapes.checked(product)

    @shapes.checked
    def outer(x: Float[Tensor, "n k"]) -> Float[Tensor, "k n"]:
        inner(torch.zeros(5, 4), torch.zeros(4))  # another n and k
        return x.T

    assert outer(TWO).shape == (2, 3)
    assert inner(torch.zeros(7, 4), torch.zeros(4)).shape == (7,)
    with pytest.raises(REFUSED):
        inner(TWO, torch.zeros(4))
    assert inner(TWO, torch.zeros(2)).shape == (3,)  # after a refusal, too


def test_a_function_stays_what_it_was():
    def made(start: int, *, step: int = 2) -> int:
        """Text."""
        return start + offset * step

    call, offset = shapes.checked(made), 10
    assert call(1) == 21
    offset = 100
    assert call(1, step=1) == 101  # a variable of the function around it
    assert (call.__name__, call.__doc__, call.__wrapped__) == ("made", "Text.", made)
    assert inspect.signature(call) == inspect.signature(made)
    assert call.__annotations__ == {"start": "int", "step": "int", "return": "int"}
    with pytest.raises(REFUSED):
        call("1")

    @shapes.checked
    def counting(upto: int) -> Iterator[int]:
        yield from range(upto)

    assert list(counting(3)) == [0, 1, 2]
    with pytest.raises(REFUSED):
        counting("3")


def test_disabled_where_a_test_says_so():
    config.update("jaxtyping_disable", True)
    try:
        assert shapes.checked(listed)([TWO]) == 1
    finally:
        config.update("jaxtyping_disable", False)


def functions_of(thing, module):
    """Functions and methods that a module or class defines itself."""
    for each in vars(thing).values():
        each = getattr(each, "__func__", getattr(each, "fget", each))
        if getattr(each, "__module__", None) != module:
            continue
        if inspect.isclass(each) and not hasattr(each, "_fields") and each is not thing:
            yield from functions_of(each, module)
        elif inspect.isfunction(each):
            yield each


def test_every_function_of_the_package_is_checked():
    """Except what the standard library writes into classes, such as a dataclass's __eq__."""
    names = [each.name for each in pkgutil.walk_packages(rlgrad.__path__, "rlgrad.")]
    modules = [import_module(name) for name in names if not name.endswith("__main__")]
    found = [each for module in modules for each in functions_of(module, module.__name__)]
    own = [
        each for each in found if each.__code__.co_filename.endswith(("shapes.py", "_decorator.py"))
    ]
    at_once = [each for each in found if not inspect.iscoroutinefunction(each)]  # not awaited for
    written = [each for each in at_once if "/rlgrad/" in each.__code__.co_filename]
    assert len(own) > 1000
    assert written == []
