"""What a protocol does with its connections between their opening and their end."""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from keepalive.base import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepalive.base.types import Key
    from keepalive.transport.stream import LinkStream

S = TypeVar("S")


class Shares(Protocol):
    """The shares of one connection, for `Lifecycle.run`. All plain; for the manager's event loop only.

    `capacity` is how many requests may borrow the connection at once: a whole number >= 0, at first 0. It may
    be set at any time, also below what is lent: then nobody borrows until enough came back.
    """

    capacity: int

    @property
    def lent(self) -> int:
        """How many requests borrow the connection now."""

    def retire(self) -> None:
        """Lend it to nobody any more; it is closed when the last borrower gave his share back. Idempotent."""


class Lifecycle(Generic[S]):
    """What a protocol does with its connections; a sub-class overrides the hooks that it needs.

    A manager is told by scheme: ``ConnectionManager(lifecycles={"redis": RedisLifecycle()})``. One object
    serves all connections of its schemes. What a hook raises ends its connection and touches nothing else.
    The streams belong to the manager: a hook uses one until it returns and does not close it.
    """

    async def opened(self, stream: LinkStream, key: Key) -> S:
        """Set a new connection up, and return what becomes ``conn.state``.

        Called after the connector (and TLS), inside the attempt: phase "setup", within `setup_timeout`. What
        it raises becomes the request's `SetupError`. What it read too far is put back by
        `stream.receive_until` and `receive_exactly`. Cancelled when the attempt is given up.
        """
        raise NotImplementedError

    async def check(self, stream: LinkStream, state: S) -> None:
        """See whether a connection that was idle for `check_after` seconds still serves; raise if not.

        Within `check_timeout`. A failure is never the request's: it gets another connection.
        """
        raise NotImplementedError

    async def reset(self, stream: LinkStream, state: S) -> None:
        """Make a connection that was given back fit for its next user; raise if that is not possible.

        In the manager's care, after `release` has returned; the connection counts as open meanwhile.
        """
        raise NotImplementedError

    def received(self, state: S, data: bytes) -> bytes | None:
        """Look at bytes that came while the connection was idle. A plain method.

        :return: what to answer, maybe nothing (``b""``); None refuses, which closes the connection
        """
        raise NotImplementedError

    async def closing(self, stream: LinkStream, state: S) -> None:
        """Say goodbye to the peer. Within a second; never called after a failure."""
        raise NotImplementedError

    def shared(self, state: S) -> bool:
        """Say whether this connection is shared, where `run` is overridden. A plain method.

        For protocols that agree on that at the set-up: HTTP/2 or HTTP/1.1, for example.
        """
        del state
        return True

    async def run(self, stream: LinkStream, state: S, shares: Shares) -> None:
        """Serve a shared connection for all of its life: read, answer, keep time.

        Where this is overridden, the connections of the scheme are shared: requests borrow one at once,
        `shares.capacity` of them at most, and each gets a handle whose `state` is the common one, but whose
        byte stream is not theirs. When it returns or raises, the connection is closed and nobody borrows it
        any more; when the connection is closed, it is cancelled.
        """
        raise NotImplementedError


class HookNames(NamedTuple):
    """Which hooks a life cycle has."""

    opened: bool
    check: bool
    reset: bool
    received: bool
    closing: bool
    run: bool

    @classmethod
    def of(cls, lifecycle: Lifecycle[Any]) -> HookNames:
        """Find those that are overridden."""
        kind = type(lifecycle)
        return cls(*(getattr(kind, name) is not getattr(Lifecycle, name) for name in cls._fields))


def checked_lifecycles(value: Mapping[str, Lifecycle[Any]] | None) -> dict[str, Lifecycle[Any]]:
    """Check a mapping of schemes to life cycles."""
    if value is None:
        return {}
    if not hasattr(value, "items"):
        msg = f"lifecycles must map schemes to life cycles, not {value!r}"
        raise TypeError(msg)
    for scheme, lifecycle in value.items():
        arguments.text("lifecycles' scheme", scheme)
        given: object = lifecycle  # whatever the annotation says
        if not isinstance(given, Lifecycle):
            msg = f"lifecycles[{scheme!r}] must be a Lifecycle, not {given!r}"
            raise TypeError(msg)
        for name in (*HookNames._fields, "shared"):
            hook, plain = getattr(lifecycle, name), name in ("received", "shared")
            if not callable(hook) or iscoroutinefunction(hook) == plain:
                kind = "a plain method" if plain else "an async method"
                msg = f"{name} of lifecycles[{scheme!r}] must be {kind}, not {hook!r}"
                raise TypeError(msg)
    return dict(value)
