"""HTTP/2 as a manager's life cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio.streams.tls import TLSAttribute

from keepalive import TLSConnector
from keepalive.abc import Lifecycle
from keepalive.http.head import GENEROUS, HeadLimits
from keepalive.http.passage import Multiplexing

from .session import Session

if TYPE_CHECKING:
    import ssl
    from typing import Any

    from anyio.abc import ByteStream

    from keepalive import Connector, Key
    from keepalive.abc import Shares

__all__ = ("HTTP2Lifecycle",)

LARGEST = 2**31 - 1
"""The largest window (RFC 9113 6.9.1)."""
SMALLEST = 65535
"""What a window is at first."""


class Single:
    """The state of a connection that speaks HTTP/1.1 after all."""


SINGLE = Single()


class HTTP2Lifecycle(Lifecycle["Session | Single"], Multiplexing):
    """Makes connections that speak HTTP/2 shared ones; those of HTTP/1.1 stay as they are.

    For a manager's `lifecycles`, beside a connector that offers "h2"; `manager_options` makes both.

    :param prior_knowledge: whether connections without TLS speak HTTP/2 too (RFC 9113 3.3); those with TLS
        do if the server chose "h2" (ALPN, RFC 7301)
    :param max_streams: requests at once on a connection, also if the server allows more
    :param window: bytes of an answer that may wait for its reader, from 65535 to 2147483647; no more of it
        is sent until some of it was read. A connection holds `max_streams` times so much in the worst case
    :param ping_after: seconds of silence after which the server is sent a ping, and again for as long until
        the connection is given up; None never does. Servers may take pings for an attack: gRPC's allow one
        in five minutes
    :param head_limits: what heads of answers may come to; an exchange's own limits count as well
    :raises TypeError, ValueError: an argument is wrong
    """

    def __init__(
        self,
        *,
        prior_knowledge: bool = False,
        max_streams: int = 100,
        window: int = 2**20,
        ping_after: float | None = None,
        head_limits: HeadLimits = GENEROUS,
    ) -> None:
        self._prior = _flag("prior_knowledge", prior_knowledge)
        self._most = _whole("max_streams", max_streams, 1)
        self._window = _whole("window", window, SMALLEST)
        self._ping_after = _seconds("ping_after", ping_after)
        given: object = head_limits  # whatever the annotation says
        if not isinstance(given, HeadLimits):
            msg = f"head_limits must be HeadLimits, not {given!r}"
            raise TypeError(msg)
        self._limits = given

    def manager_options(
        self, ssl_context: ssl.SSLContext | None = None, *, over: Connector | None = None
    ) -> dict[str, Any]:
        """Return what a manager needs: ``ConnectionManager(**http.HTTP2Lifecycle().manager_options())``.

        That is `connectors` and `lifecycles`, for "https", and for "http" too with prior knowledge.

        :param ssl_context, over: see `TLSConnector`; "h2" and "http/1.1" are set on the context (ALPN)
        """
        schemes = ("http", "https") if self._prior else ("https",)
        return {
            "connectors": {"https": TLSConnector(ssl_context, alpn=("h2", "http/1.1"), over=over)},
            "lifecycles": dict.fromkeys(schemes, self),
        }

    async def opened(self, stream: ByteStream, key: Key) -> Session | Single:
        """Look which protocol was agreed on. Sends nothing, and does not switch tasks."""
        secure = TLSAttribute.alpn_protocol in stream.extra_attributes
        chosen = stream.extra(TLSAttribute.alpn_protocol, None) == "h2" if secure else self._prior
        if not chosen:
            return SINGLE
        return Session(
            b"https" if secure else b"http", self._limits, self._window, self._most, self._ping_after
        )

    def shared(self, state: Session | Single) -> bool:
        """Say whether a connection is lent to many at once."""
        return state is not SINGLE

    async def run(self, stream: ByteStream, state: Session | Single, shares: Shares) -> None:
        """Serve a connection; see `Lifecycle.run`."""
        assert isinstance(state, Session), "shared"
        await state.run(stream, shares)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        msg = f"{name} must be a bool, not {value!r}"
        raise TypeError(msg)
    return value


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if not least <= value <= LARGEST:
        msg = f"{name} must be from {least} to {LARGEST}, not {value!r}"
        raise ValueError(msg)
    return value


def _seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{name} must be a number of seconds or None, not {value!r}"
        raise TypeError(msg)
    if not value > 0:
        msg = f"{name} must be more than 0, not {value!r}"
        raise ValueError(msg)
    return float(value)
