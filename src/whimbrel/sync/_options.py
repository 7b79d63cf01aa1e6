"""Two faces, one list of options: what the asyncio face's functions learn to take, the blocking ones take as well."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


def takes_what(other: Callable[P, object]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Say of a function that it takes the same arguments as another one."""
    return lambda function: _signed(function, other)


def takes_but_first_what(
    other: Callable[Concatenate[A, P], object],
) -> Callable[[Callable[Concatenate[B, ...], T]], Callable[Concatenate[B, P], T]]:
    """The same, except for the first."""
    return lambda function: _signed(function, other)


def _signed(function: Callable[..., T], other: Callable[..., object]) -> Callable[..., T]:
    """For ``help()`` and editors that look at what runs."""
    theirs, ours = inspect.signature(other), inspect.signature(function)
    signature = theirs.replace(return_annotation=ours.return_annotation)
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function
