"""Refusal of draws, values and contexts whose shapes do not fit an estimator, in one place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor


def checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of an estimator that looks at the shapes of its arguments first."""

    @functools.wraps(method)
    def checking(
        self: Any, draw: Any, value: Tensor, *, context: Tensor | None = None, **rest: Any
    ) -> Any:
        name, K = type(self).__name__, self.values
        batch = list(draw.action.shape[:-1])
        if K > 1 and batch[:1] != [K]:
            raise ValueError(
                f"got a draw of shape {list(draw.logits.shape)}; {name} needs {K} draws of each "
                "choice on its first axis: take the draw from its sample()"
            )
        size, built = list(draw.logits.shape[-2:]), [self.factors, self.categories]
        if self.traits.context and size != built:
            raise ValueError(
                f"got logits of shape {list(draw.logits.shape)}; {name} was built for {built[0]} "
                f"factors of {built[1]} categories and expects them to end in {built}"
            )
        check_value(value, batch, K)
        if self.traits.context:
            check_context(context, batch if K == 1 else batch[1:], self.context, name)
        return method(self, draw, value, context=context, **rest)

    return checking


def check_value(value: Tensor, batch: list[int], draws: int) -> None:
    """Refuse values that are not one for each choice.

    Raises:
        ValueError: with the shape that came and the one expected.
    """
    if list(value.shape) != batch:
        first = f", the {draws} values of each choice first" if draws > 1 else ""
        raise ValueError(
            f"got a value of shape {list(value.shape)} for choices of shape {batch}; "
            f"expected {batch}{first}"
        )


def check_context(context: Tensor | None, batch: list[int], features: int, name: str) -> None:
    """Refuse a missing context, or one that is not of the width that the networks were built for.

    Raises:
        ValueError: with the shape that came and the one expected.
    """
    if context is None and not features:
        return
    came = None if context is None else list(context.shape)
    if came != [*batch, features]:
        raise ValueError(
            f"got {'no context' if came is None else f'context of shape {came}'}; "
            f"{name} was built with context={features} and expects {[*batch, features]}"
        )
