"""Commands, as bytes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import hiredis

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("Argument", "checked_batch", "pack", "pack_batch")

Argument: TypeAlias = "str | bytes | int | float"

_UNANSWERED = frozenset(
    {"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"}
    | {"MONITOR", "SYNC", "PSYNC", "QUIT"}
)
"""What is not answered by one reply."""

_ALONE = frozenset(
    {"BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT", "WAITAOF"}
    | {"SELECT", "AUTH", "HELLO", "RESET", "WATCH", "UNWATCH"}
)
"""What makes others wait, or changes the connection for them."""

_TRANSACTION = frozenset({"MULTI", "EXEC", "DISCARD"})
_BLOCKING_READS = frozenset({"XREAD", "XREADGROUP"})


def pack(command: tuple[Argument, ...], *, shared: bool) -> bytes:
    """Return one command as bytes.

    :param shared: whether others use the connection at the same time
    :raises TypeError: an argument is neither str, bytes, int nor float
    :raises ValueError: the command is empty, or does not fit such a connection
    """
    _check(command, shared=shared)
    if shared and _name(command) in _TRANSACTION:
        msg = f"{_name(command)} alone would catch what others send between; send it in a pipeline"
        raise ValueError(msg)
    return _packed(command)


def checked_batch(commands: Iterable[tuple[Argument, ...]]) -> list[tuple[Argument, ...]]:
    """Return the commands of a pipeline as a list.

    :raises TypeError, ValueError: they are not several tuples
    """
    batch: list[tuple[Argument, ...]] = []
    given: Iterable[object] = commands  # whatever the annotation says
    for command in given:
        if not isinstance(command, (tuple, list)):
            msg = f"each of the commands must be a tuple of its name and arguments, not {command!r}"
            raise TypeError(msg)
        batch.append(tuple(command))
    if not batch:
        msg = "commands must not be empty"
        raise ValueError(msg)
    return batch


def pack_batch(batch: list[tuple[Argument, ...]], *, shared: bool) -> bytes:
    """Return commands as bytes that are sent in one piece.

    :raises TypeError, ValueError: as `pack` does, or a transaction is begun and not ended
    """
    opened = False
    for command in batch:
        _check(command, shared=shared)
        name = _name(command)
        opened = name == "MULTI" or (opened and name not in _TRANSACTION)
    if opened and shared:
        msg = "MULTI without EXEC would catch what others send next"
        raise ValueError(msg)
    return b"".join(map(_packed, batch))


def _packed(command: tuple[Argument, ...]) -> bytes:
    try:
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows one-tuples
    except TypeError:
        wrong = next((part for part in command if type(part) not in (str, bytes, int, float)), command)
        msg = f"the arguments of a command must be str, bytes, int or float, not {wrong!r}"
        raise TypeError(msg) from None
    return packed


def _check(command: tuple[Argument, ...], *, shared: bool) -> None:
    if not command:
        msg = "a command must have a name"
        raise ValueError(msg)
    name = _name(command)
    if name in _UNANSWERED:
        msg = f"{name} is not answered by one reply; use a connection of redis-py's for it"
        raise ValueError(msg)
    if name == "CLIENT" and len(command) > 1 and _text(command[1]) == "REPLY":
        msg = "CLIENT REPLY would stop the replies that are counted"
        raise ValueError(msg)
    if shared and (
        name in _ALONE or (name in _BLOCKING_READS and any(_text(part) == "BLOCK" for part in command[1:-1]))
    ):
        msg = f"{name} concerns all who use the connection; use an exclusive one for it"
        raise ValueError(msg)


def _name(command: tuple[Argument, ...]) -> str:
    return _text(command[0])


def _text(part: Argument) -> str:
    if isinstance(part, bytes):
        return part.decode("ascii", "replace").upper()
    return part.upper() if isinstance(part, str) else ""
