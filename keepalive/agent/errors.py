"""What goes wrong between a borrower and its agent, and how the agent's failures are told here."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from keepalive import (
    AllocateError,
    AllocateTimeout,
    ConnectError,
    KeepaliveError,
    ManagerClosed,
    QueueFull,
    RequestCancelled,
    ResolveError,
    TLSError,
    printable,
)

if TYPE_CHECKING:
    from .loan import Asked
    from .wire import Failed

__all__ = ("AgentError",)


class AgentError(KeepaliveError, ConnectionError):
    """The agent cannot be reached, or refuses this process."""


_BY_KIND: dict[str, type[AllocateError]] = {
    "timeout": AllocateTimeout,
    "resolve": ResolveError,
    "tls": TLSError,
    "connect": ConnectError,
}
_PLAIN: dict[str, type[KeepaliveError]] = {
    "full": QueueFull,
    "closed": ManagerClosed,
    "cancelled": RequestCancelled,
}


def explain(asked: Asked, failed: Failed) -> KeepaliveError:
    """Make the exception for what an agent says of a request."""
    plain = _PLAIN.get(failed.kind)
    if plain is not None:
        return plain(f"request {asked.number} for {asked.per_key.key}: {printable(failed.text)}")
    number = errno.EACCES if failed.kind == "denied" else failed.error
    return _error(asked, _BY_KIND.get(failed.kind, AllocateError), failed.phase, number, failed.text)


def lost(asked: Asked, why: str) -> KeepaliveError:
    """Make the exception for a request that has no agent any more."""
    return _error(asked, AllocateError, "agent", errno.ECONNRESET, f"the agent is gone: {why}")


def late(asked: Asked, why: str) -> KeepaliveError:
    """Make the exception for a request that no agent has answered in time."""
    text = f"no connection within timeout={asked.seconds:g} s; {why}"
    return _error(asked, AllocateTimeout, "agent", errno.ETIMEDOUT, text)


def no_descriptor(asked: Asked) -> KeepaliveError:
    """Make the exception for a connection that came, and found no descriptor free here."""
    text = "this process may not open another file, so the agent's connection could not be taken"
    return _error(asked, AllocateError, "agent", errno.EMFILE, text)


def _error(
    asked: Asked, kind: type[AllocateError], phase: str, number: int | None, text: str
) -> AllocateError:
    return kind(asked.per_key.key, phase, number, text, request_id=asked.number, context=asked.context)
