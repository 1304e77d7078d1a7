"""One connection of a client: the ancestor's connection heap, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from anyio import ClosedResourceError, TypedAttributeLookupError
from anyio.lowlevel import checkpoint

from keepalive.base import arguments as settings

from .core.filters import Filter
from .core.states import CLOSED, EndReason, PeerState

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from keepalive.base.addresses import BindAddresses

    from .core.states import Record
    from .driver import Driver

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


class Peers(Mapping[int, "Peer"]):
    """The open peers of a client by their ids. It changes as they do."""

    __slots__ = ("_records",)

    def __init__(self, records: Mapping[int, Record]) -> None:
        self._records = records

    def __getitem__(self, id: int) -> Peer:
        peer: Peer = self._records[id].peer
        return peer

    def __iter__(self) -> Iterator[int]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


class Peer:
    """One outgoing connection of a `MultiClient`, from `MultiClient.connect` to its end and after.

    All methods are plain, harmless in every state, and may be called in callbacks. None of them calls a
    callback before it returns.
    """

    __slots__ = ("_heap", "_owner", "_record")

    def __init__(self, owner: Driver, record: Record, heap: dict[Any, Any] | None = None) -> None:
        self._owner = owner
        self._record = record
        self._heap = heap
        record.peer = self

    # -- what it is ---------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """Its number, the same from the beginning to the end."""
        return self._record.id

    @property
    def addr(self) -> str:
        """Where to connect, as it was given."""
        return self._record.addr

    @property
    def port(self) -> int:
        """The port, as it was given."""
        return self._record.port

    @property
    def scheme(self) -> str:
        """What opens it: "tcp", or a key of the client's connectors."""
        return self._record.scheme

    @property
    def bind_address(self) -> BindAddresses | None:
        """Its local (address, port) by family, or None."""
        return self._record.bind_addresses

    @property
    def address(self) -> str | None:
        """The address it is connected to, once it is, a proxy's as well; None for a Unix socket."""
        return self._record.address

    @property
    def reason(self) -> EndReason | None:
        """Why it is closed, once it is."""
        return self._record.reason

    @property
    def state(self) -> PeerState:
        """Where it is in its life."""
        return self._record.state

    @property
    def heap(self) -> dict[Any, Any]:
        """The user's own dict: whatever belongs to this connection."""
        if self._heap is None:
            self._heap = {}
        return self._heap

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._record.outbox) if self._record.outbox else 0

    @property
    def pending(self) -> bytes:
        """Return the bytes that have come and are no unit yet; none once it is closed."""
        return bytes(self._record.inbox) if self._record.inbox else b""

    @property
    def for_scheme(self) -> str:
        """What is spoken with what lies behind `addr`; its own scheme if `connect` was told nothing."""
        return self._record.behind[0] if self._record.behind else self.scheme

    @property
    def for_addr(self) -> str:
        """The host behind `addr`, or its server name; `addr` if `connect` was told nothing."""
        return self._record.behind[1] if self._record.behind else self.addr

    @property
    def for_port(self) -> int:
        """The port there; `port` if `connect` was told nothing."""
        return self._record.behind[2] if self._record.behind else self.port

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The values that `extra` knows, while it is connected; none before and after."""
        link = self._record.link
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
        return getattr(self._record.link, "sock", None)

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"<Peer {self.id} {self.addr} port {self.port}: {self._record.state.value}{reason}>"

    # -- its timer ----------------------------------------------------------------------------------

    @property
    def timeout(self) -> float:
        """Seconds that its phase may take: connecting, or from one unit to the next; 0 is no limit.

        To set it starts the timer anew; it is set to the input timeout when the connection is up.

        :raises TypeError, ValueError: not a number of seconds
        """
        return self._record.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._owner.check_here()
        limit = settings.seconds("timeout", seconds, none=0.0)
        self._owner.core.set_timeout(self._record, limit, self._owner.clock())

    # -- its filters --------------------------------------------------------------------------------

    @property
    def filter(self) -> Filter:
        """What turns bytes into units and back. Reading gives the one for what comes.

        It may be exchanged at any time, in a callback too: bytes that have come and are no unit yet go to
        the new one, as do units that are sent from now on.

        :raises TypeError: not a `Filter`
        """
        return self._record.input_filter

    @filter.setter
    def filter(self, value: Filter) -> None:
        codec = checked_filter("filter", value)
        self._record.output_filter = codec
        self._owner.core.set_input_filter(self._record, codec)

    @property
    def input_filter(self) -> Filter:
        """The filter for what comes."""
        return self._record.input_filter

    @input_filter.setter
    def input_filter(self, value: Filter) -> None:
        self._owner.core.set_input_filter(self._record, checked_filter("input_filter", value))

    @property
    def output_filter(self) -> Filter:
        """The filter for what is sent."""
        return self._record.output_filter

    @output_filter.setter
    def output_filter(self, value: Filter) -> None:
        self._record.output_filter = checked_filter("output_filter", value)

    # -- commands -----------------------------------------------------------------------------------

    def send(self, *units: Any) -> bool:
        """Send units, all or none; while it is being connected they are queued.

        :return: False if it is shut down or closed already, and nothing was sent
        :raises UnitError, TypeError: the filter refuses a unit
        :raises OutputFull: more than `max_output` bytes would wait
        :raises RuntimeError: another event loop or thread
        """
        owner = self._owner
        owner.check_here()
        return owner.core.send(self._record, units, owner.clock())

    def shutdown(self) -> bool:
        """End it in good order: send what waits, then the end of the stream, and close when the peer has
        closed, or after `shutdown_timeout`. What still comes is thrown away.

        :return: False if it was shut down or closed already
        :raises RuntimeError: another event loop or thread
        """  # noqa: D205  # one sentence that does not fit a line
        self._owner.check_here()
        return self._owner.core.shutdown(self._record, self._owner.clock())

    def close(self) -> bool:
        """End it at once; what waits to be sent is lost.

        :return: False if it was closed already
        :raises RuntimeError: another event loop or thread
        """
        self._owner.check_here()
        return self._owner.core.close(self._record, EndReason.CLOSE, self._owner.clock())

    async def drain(self) -> None:
        """Wait until no bytes wait to be sent. Switches tasks; a cancelled wait changes nothing.

        :raises anyio.ClosedResourceError: it is closed, and not by a shutdown to its good end
        :raises RuntimeError: another event loop or thread
        """
        self._owner.check_here()
        record = self._record
        if record.state is not CLOSED and record.outbox is not None:
            parked = self._owner.park()
            if record.drainers is None:
                record.drainers = []
            record.drainers.append(parked)
            try:
                await parked
            finally:
                record.drainers.remove(parked)
                if not record.drainers:
                    record.drainers = None
        else:
            await checkpoint()
        if record.state is CLOSED and record.reason is not EndReason.SHUTDOWN:
            raise ClosedResourceError
