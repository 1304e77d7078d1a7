"""One connection of a client: the ancestor's connection heap, and what can be done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from anyio import ClosedResourceError, TypedAttributeLookupError
from anyio.lowlevel import checkpoint

from keepalive.base import arguments as settings

from .filters import Filter
from .types import CLOSED, INITIALISING, NEVER, EndReason, PeerState

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from keepalive.base.timer_queue import Entry

    from .desk import Desk
    from .types import Wire

__all__ = ("Peer",)

T = TypeVar("T")
D = TypeVar("D")
_MISSING: Final = object()


def checked_filter(name: str, value: Any) -> Filter:
    """Check that something is a filter, and not a class of filters."""
    if isinstance(value, type) or not isinstance(value, Filter):
        msg = f"{name} must be an object with the methods decode and encode, not {value!r}"
        raise TypeError(msg)
    return value


class Peer:
    """One outgoing connection of a `MultiClient`, from `MultiClient.connect` to its end and after.

    All methods are plain, harmless in every state, and may be called in callbacks. None of them calls a
    callback before it returns.

    :ivar id: its number, the same from the beginning to the end
    :ivar addr: where to connect, as it was given
    :ivar port: the port, as it was given
    :ivar scheme: what opens it: "tcp", or a key of the client's connectors
    :ivar bind_address: its local (address, port) by family, or None
    :ivar address: the address it is connected to, once it is, a proxy's as well; None for a Unix socket
    :ivar reason: why it is closed, once it is
    :ivar timer: the client's own: its next timer
    """

    __slots__ = (
        "_attempt",
        "_behind",
        "_desk",
        "_drainers",
        "_ends",
        "_heap",
        "_inbox",
        "_input",
        "_input_timeout",
        "_lifetime",
        "_link",
        "_outbox",
        "_output",
        "_sends",
        "_since",
        "_state",
        "_stuck",
        "_timeout",
        "addr",
        "address",
        "bind_address",
        "id",
        "port",
        "reason",
        "scheme",
        "timer",
    )

    def __init__(
        self, desk: Desk, number: int, addr: str, port: int, codec: Filter, timeouts: tuple[float, float]
    ) -> None:
        self.id = number
        self.addr = addr
        self.port = port
        self.scheme = "tcp"
        self.bind_address: dict[int, tuple[str, int]] | None = None
        self.address: str | None = None
        self.reason: EndReason | None = None
        self.timer: Entry | None = None
        self._desk = desk
        self._state = INITIALISING
        self._input = self._output = codec
        self._timeout, self._input_timeout = timeouts
        self._lifetime = 0.0  # seconds, of each attempt and what comes of it
        self._ends = NEVER  # when that is over
        self._heap: dict[Any, Any] | None = None
        self._behind: tuple[str, str, int] | None = None  # for_scheme, for_addr, for_port, if they differ
        self._attempt = False  # one of the `max_connecting` attempts is its own
        self._link: Wire | None = None  # while it is connected
        self._inbox: bytearray | None = None  # has come, but is no unit yet
        self._outbox: bytearray | None = None  # waits to be sent
        self._drainers: list[Any] | None = None  # parked tasks
        self._sends = 0  # 0, 1, or 2 for more or much
        self._since = 0.0  # when the timer of its phase was started
        self._stuck = 0.0  # when bytes of the outbox were last taken

    # -- what it is ---------------------------------------------------------------------------------

    @property
    def state(self) -> PeerState:
        """Where it is in its life."""
        return self._state

    @property
    def heap(self) -> dict[Any, Any]:
        """The user's own dict: whatever belongs to this connection."""
        if self._heap is None:
            self._heap = {}
        return self._heap

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._outbox) if self._outbox else 0

    @property
    def pending(self) -> bytes:
        """Return the bytes that have come and are no unit yet; none once it is closed."""
        return bytes(self._inbox) if self._inbox else b""

    @property
    def for_scheme(self) -> str:
        """What is spoken with what lies behind `addr`; its own scheme if `connect` was told nothing."""
        return self._behind[0] if self._behind else self.scheme

    @property
    def for_addr(self) -> str:
        """The host behind `addr`, or its server name; `addr` if `connect` was told nothing."""
        return self._behind[1] if self._behind else self.addr

    @property
    def for_port(self) -> int:
        """The port there; `port` if `connect` was told nothing."""
        return self._behind[2] if self._behind else self.port

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The values that `extra` knows, while it is connected; none before and after."""
        link = self._link
        return {} if link is None else link.attributes()

    @overload
    def extra(self, attribute: T) -> T: ...
    @overload
    def extra(self, attribute: T, default: D) -> T | D: ...
    def extra(self, attribute: Any, default: object = _MISSING) -> object:
        """Return one of anyio's typed attributes of the connection, of `SocketAttribute` or `TLSAttribute`.

        Addresses and ports, and for TLS the peer's certificate, the protocol that was agreed on (ALPN), the
        version and the cipher, for example. Look at them in ``on_success`` or later: there are none before,
        and none when it is closed.

        :param default: what to return instead of raising
        :raises anyio.TypedAttributeLookupError: the connection has no such attribute, or is not there
        """
        try:
            get = self.extra_attributes[attribute]
        except KeyError:
            if default is _MISSING:
                msg = f"{self!r} has no such attribute now"
                raise TypedAttributeLookupError(msg) from None
            return default
        try:
            return get()
        except OSError:  # the kernel has forgotten it: the connection is broken
            if default is _MISSING:
                raise TypedAttributeLookupError(f"{self!r} is broken") from None
            return default

    @property
    def socket(self) -> socket.socket | None:
        """The raw socket while it is connected, for options. What is done with it there goes by unseen."""
        return getattr(self._link, "sock", None)

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"<Peer {self.id} {self.addr} port {self.port}: {self._state.value}{reason}>"

    # -- its timer ----------------------------------------------------------------------------------

    @property
    def timeout(self) -> float:
        """Seconds that its phase may take: connecting, or from one unit to the next; 0 is no limit.

        To set it starts the timer anew; it is set to the input timeout when the connection is up.

        :raises TypeError, ValueError: not a number of seconds
        """
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._desk.hands.check_here()
        self._desk.set_timeout(self, settings.seconds("timeout", seconds, none=0.0))

    # -- its filters --------------------------------------------------------------------------------

    @property
    def filter(self) -> Filter:
        """What turns bytes into units and back. Reading gives the one for what comes.

        It may be exchanged at any time, in a callback too: bytes that have come and are no unit yet go to
        the new one, as do units that are sent from now on.

        :raises TypeError: not a `Filter`
        """
        return self._input

    @filter.setter
    def filter(self, value: Filter) -> None:
        codec = checked_filter("filter", value)
        self._output = codec
        self._desk.set_input_filter(self, codec)

    @property
    def input_filter(self) -> Filter:
        """The filter for what comes."""
        return self._input

    @input_filter.setter
    def input_filter(self, value: Filter) -> None:
        self._desk.set_input_filter(self, checked_filter("input_filter", value))

    @property
    def output_filter(self) -> Filter:
        """The filter for what is sent."""
        return self._output

    @output_filter.setter
    def output_filter(self, value: Filter) -> None:
        self._output = checked_filter("output_filter", value)

    # -- commands -----------------------------------------------------------------------------------

    def send(self, *units: Any) -> bool:
        """Send units, all or none; while it is being connected they are queued.

        :return: False if it is shut down or closed already, and nothing was sent
        :raises UnitError, TypeError: the filter refuses a unit
        :raises OutputFull: more than `max_output` bytes would wait
        :raises RuntimeError: another event loop or thread
        """
        self._desk.hands.check_here()
        return self._desk.send(self, units)

    def shutdown(self) -> bool:
        """End it in good order: send what waits, then the end of the stream, and close when the peer has
        closed, or after `shutdown_timeout`. What still comes is thrown away.

        :return: False if it was shut down or closed already
        :raises RuntimeError: another event loop or thread
        """  # noqa: D205  # one sentence that does not fit a line
        self._desk.hands.check_here()
        return self._desk.shutdown(self)

    def close(self) -> bool:
        """End it at once; what waits to be sent is lost.

        :return: False if it was closed already
        :raises RuntimeError: another event loop or thread
        """
        self._desk.hands.check_here()
        return self._desk.close(self, EndReason.CLOSE)

    async def drain(self) -> None:
        """Wait until no bytes wait to be sent. Switches tasks; a cancelled wait changes nothing.

        :raises anyio.ClosedResourceError: it is closed, and not by a shutdown to its good end
        :raises RuntimeError: another event loop or thread
        """
        self._desk.hands.check_here()
        if self._state is not CLOSED and self._outbox is not None:
            parked = self._desk.hands.park()
            if self._drainers is None:
                self._drainers = []
            self._drainers.append(parked)
            try:
                await parked
            finally:
                self._drainers.remove(parked)
                if not self._drainers:
                    self._drainers = None
        else:
            await checkpoint()
        if self._state is CLOSED and self.reason is not EndReason.SHUTDOWN:
            raise ClosedResourceError
