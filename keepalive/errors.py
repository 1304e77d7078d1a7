"""Everything that can go wrong with a request for a connection.

The stream methods of a `Connection` raise none of these but anyio's own stream errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.text import printable

if TYPE_CHECKING:
    from keepalive.base.types import Key

__all__ = (
    "AllocateError",
    "AllocateTimeout",
    "ConnectError",
    "FleetError",
    "KeepaliveError",
    "ManagerClosed",
    "QueueFull",
    "RequestCancelled",
    "ResolveError",
    "SetupError",
    "TLSError",
)


class KeepaliveError(Exception):
    """The root of all errors of this package."""


class AllocateError(KeepaliveError, OSError):
    """No connection could be had for a request.

    It is an `OSError` too, so that ``except OSError`` around network code keeps working.

    :ivar function: the phase that failed: "queue", "fleet", "resolve", "bind", "connect", "proxy", "tls",
        "setup"
    :ivar error_num: the errno, or None where there is none (a name that does not exist, a
        certificate that is not trusted)
    :ivar error_str: what went wrong, for people
    :ivar request_id: the number of the request
    :ivar context: what the request was given as context

    The fields of the request are there under their own names: ``scheme``, ``addr``, ``port``,
    ``for_scheme``, ``for_addr``, ``for_port``.
    """

    def __init__(
        self,
        key: Key,
        function: str,
        error_num: int | None,
        error_str: str,
        *,
        request_id: int = 0,
        context: object = None,
    ) -> None:
        error_str = printable(
            error_str
        )  # a proxy, a name server or a foreign connector may have a part in it
        super().__init__(error_num, error_str)
        self.key = key
        self.scheme, self.addr, self.port, self.for_scheme, self.for_addr, self.for_port = key
        self.function = function
        self.error_num = error_num
        self.error_str = error_str
        self.request_id = request_id
        self.context = context

    def __str__(self) -> str:
        number = "" if self.error_num is None else f" (errno {self.error_num})"
        return f"{self.key}: {self.function}: {self.error_str}{number}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (
            type(self),
            self.key,
            self.function,
            self.error_num,
            self.error_str,
            self.request_id,
        )


def _rebuild(
    cls: type[AllocateError], key: Key, function: str, number: int | None, text: str, request_id: int
) -> AllocateError:
    """Unpickle; the context, which may be anything, stays behind."""
    return cls(key, function, number, text, request_id=request_id)


class ResolveError(AllocateError):
    """The host name could not be turned into an address."""


class ConnectError(AllocateError):
    """No address of the host could be connected to, or a proxy refused to.

    ``function`` is "connect", "bind" or "proxy".
    """


class TLSError(AllocateError):
    """The TLS handshake failed: protocol, certificate or server name."""


class SetupError(AllocateError):
    """The life cycle of the scheme could not set a new connection up; its own error is the cause."""


class AllocateTimeout(AllocateError, TimeoutError):
    """Time ran out; ``function`` says in which phase, and the message which one and the pool's numbers.

    It was the request's timeout, or one of the attempt: `connect_timeout`, `resolve_timeout`, `tls_timeout`,
    `setup_timeout`.
    """


class FleetError(KeepaliveError):
    """A manager could not take part in its fleet: no store, a refusal, or what belongs to somebody else."""


class QueueFull(KeepaliveError):
    """The request would have to queue, and `max_waiting` requests do already."""


class RequestCancelled(KeepaliveError):
    """The request was cancelled by `Request.cancel` or `ConnectionManager.deallocate`."""


class ManagerClosed(KeepaliveError):
    """The manager has been shut down."""
