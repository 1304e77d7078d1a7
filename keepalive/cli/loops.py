"""Run a command's coroutine on the loop that was asked for, and end well when a signal comes."""

from __future__ import annotations

import importlib.util
import signal
from typing import TYPE_CHECKING, Any

import anyio
import click

from keepalive import KeepaliveError, printable

from .interrupts import loaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

backend_option = click.option(
    "--backend",
    type=click.Choice(tuple(_BACKENDS)),
    default="asyncio",
    show_default=True,
    help="The event loop to run on.",
)


def run(backend: str, job: Callable[[], Awaitable[None]], *, signals: bool = True) -> int:
    """Run ``job`` to its end, or cancel it at the first SIGINT or SIGTERM unless it minds ``signals`` itself.

    Gives 0, or what a shell expects of a program ended by that signal. A second SIGINT does not wait.

    :raises click.ClickException: if the loop is not installed, or the job fails as networks and systems do
    """
    if importlib.util.find_spec(backend) is None:
        raise click.ClickException(
            f"{backend} is missing; install it with: pip install 'keepalive-manager[{backend}]'"
        )
    caught: list[int] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            if signals:
                await group.start(_cancel_on_signal, group.cancel_scope, caught)
            loaded()
            await job()
            group.cancel_scope.cancel()

    name, options = _BACKENDS[backend]
    try:
        anyio.run(main, backend=name, backend_options=options)
    except BaseExceptionGroup as group:
        _, unexpected = group.split((KeepaliveError, OSError))
        if unexpected is not None:
            raise
        raise click.ClickException(printable(str(_first(group)))) from group
    return 128 + caught[0] if caught else 0


async def _cancel_on_signal(
    scope: anyio.CancelScope, caught: list[int], *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            caught.append(number)
            scope.cancel()
            return


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    exc = group.exceptions[0]
    return _first(exc) if isinstance(exc, BaseExceptionGroup) else exc
