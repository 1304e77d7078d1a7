"""A cancel at every step of some work."""

from __future__ import annotations

from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import CancelScope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")


@coroutine
def _stepwise(work: Coroutine[Any, Any, T], before: Callable[[int], None]) -> Generator[Any, Any, T]:
    """Run a coroutine, with a call before each of its waits."""
    step, sent, waits = work.send, None, 0
    while True:
        try:
            wanted = step(sent)
        except StopIteration as end:
            result: T = end.value
            return result
        before(waits)
        waits += 1
        step, sent = work.send, None
        try:
            sent = yield wanted
        except BaseException as exc:
            step, sent = work.throw, exc


async def cancelled_at(number: int, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Run some work and cancel it at its wait of that number; False if it did not wait so often."""
    reached = False

    with CancelScope() as scope:

        def before(waits: int) -> None:
            nonlocal reached
            if waits == number:
                reached = True
                scope.cancel()

        await _stepwise(work(), before)
    return reached


async def cancel_everywhere(
    work: Callable[[], Coroutine[Any, Any, object]], check: Callable[[], Awaitable[object]]
) -> int:
    """Run some work again and again, cancelled at its first wait, its second, ...; return how many."""
    number = 0
    while await cancelled_at(number, work):
        await check()
        number += 1
    await check()
    return number
