"""Requests that do not wait for one another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def all_of(requests: Iterable[Awaitable[T]]) -> list[T]:
    """What they return, in their order. Raises the first failure in that order.

    None of them is still under way at the end: it would come after what tidies up.
    """
    results: list[T] = []
    for result in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


async def both(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """As `all_of`, of two that return different things."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    if isinstance(first, BaseException):
        raise first
    if isinstance(second, BaseException):
        raise second
    return first, second
