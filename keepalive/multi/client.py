"""The client, as its users see it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from keepalive.base import arguments as settings
from keepalive.base.types import NEVER
from keepalive.connect.connector import checked_connectors
from keepalive.connect.tcp import UnixConnector
from keepalive.connect.tls import TLSConnector
from keepalive.resolve.dns import DNSResolver
from keepalive.resolve.resolver import Resolver
from keepalive.transport.loops import current_runtime

from .core.filters import LineFilter
from .core.states import Callbacks, ClientClosed, Limits, Record
from .driver import TCP, Driver, literal, most_connections
from .events import EventQueue
from .peer import Peer, Peers, checked_filter

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from keepalive.base.addresses import BindAddresses
    from keepalive.connect.connector import Connector

    from .core.filters import Filter
    from .events import Event

__all__ = ("MultiClient",)


class MultiClient:
    """Drives any number of outgoing connections in one task, with plain callbacks or a stream of events.

    Use it as an async context manager, entered and left by one task; every other call may come from any
    task of that event loop. Leaving the block closes all connections at once.

    Callbacks get the `Peer` first. They are plain functions, called directly; one that raises ends its own
    peer only. None is called while another one, or a method of the client, is running, ``on_initialize``
    apart. Without any callback the client is an async iterator of event objects.

    :param on_initialize: ``(peer)``, within `connect`: its result is not known yet
    :param on_success: ``(peer)``: it is connected
    :param on_failure: ``(peer, operation, errno, text)``: it could not be connected; `operation` is
        "resolve", "socket", "bind", "connect", "tls" or what a connector says; `errno` is 0 if there is none
    :param on_input: ``(peer, unit)``
    :param on_error: ``(peer, operation, errno, text)``: "read" with 0 and "" is the end of the stream,
        "read" and "write" with an errno a broken connection, "decode" a unit that the filter refuses, and
        the name of a callback that this one raised
    :param on_timeout: ``(peer)``: a time ran out; `Peer.reason` says which
    :param on_flushed: ``(peer)``: all that was given to `send` has gone to the kernel
    :param on_disconnected: ``(peer)``: the end, exactly once for each peer, and the last that is heard of it
    :param connect_timeout: seconds for an attempt, its name included; 0 for no limit. The wait for one's
        turn (`max_connecting`) does not count
    :param input_timeout: seconds from the beginning, and from each unit received, to the next; 0 for no limit
    :param write_timeout: seconds without the peer's taking anything while bytes wait; 0 for no limit
    :param shutdown_timeout: seconds that `Peer.shutdown` may take; 0 for no limit
    :param filter: called without arguments, makes the `Filter` of each peer
    :param lifetime: seconds that a peer may live in all, from the beginning of its attempt; 0 for no limit.
        Its end is told as that of any other time; `Peer.reason` is ``LIFETIME``
    :param max_connecting: attempts under way at once, > 0, or None; further ones wait
    :param max_open: attempts and connections at once, > 0; further ones wait. By default, as many as the
        soft limit of descriptors (``ulimit -n``) allows when the client is entered, less an eighth, and
        less 32 at least, which are left for the program; `math.inf` for no limit. A peer that finds
        no free descriptor all the same waits until another one ends; only if for 5 seconds none is open
        whose end could help, ``on_failure`` tells "socket" and ``EMFILE``
    :param max_output: bytes that may wait to be sent, per peer, > 0, or None
    :param max_events: events that may wait to be taken, > 0, or None; when so many do, nothing is read
    :param resolver: turns host names into addresses; by default a `DNSResolver`
    :param connectors: what opens connections of other schemes; "https" is TLS and "unix" a Unix socket
        unless this says otherwise. They need a task per attempt; "tcp" needs none,
        but for a name with several addresses
    :param scheme: of peers whose `connect` does not say otherwise
    :param bind_address: local address, or (address, port)
    :raises TypeError: an argument of the wrong type
    :raises ValueError: an argument out of range
    """

    def __init__(
        self,
        *,
        on_initialize: Callable[[Peer], object] | None = None,
        on_success: Callable[[Peer], object] | None = None,
        on_failure: Callable[[Peer, str, int, str], object] | None = None,
        on_input: Callable[[Peer, Any], object] | None = None,
        on_error: Callable[[Peer, str, int, str], object] | None = None,
        on_timeout: Callable[[Peer], object] | None = None,
        on_flushed: Callable[[Peer], object] | None = None,
        on_disconnected: Callable[[Peer], object] | None = None,
        connect_timeout: float | None = 30.0,
        input_timeout: float | None = 300.0,
        write_timeout: float | None = 300.0,
        shutdown_timeout: float | None = 30.0,
        lifetime: float | None = None,
        filter: Callable[[], Filter] = LineFilter,
        max_connecting: int | None = 512,
        max_open: float | None = None,
        max_output: int | None = 16 * 1024 * 1024,
        max_events: int | None = 1000,
        resolver: Resolver | None = None,
        connectors: Mapping[str, Connector] | None = None,
        scheme: str = TCP,
        bind_address: str | tuple[str, int] | None = None,
    ) -> None:
        given = (
            on_initialize, on_success, on_failure, on_input,
            on_error, on_timeout, on_flushed, on_disconnected,
        )  # fmt: skip  # in the order of the fields
        self._callbacks = Callbacks(*given)
        for name in Callbacks.__slots__:
            _callable(name, getattr(self._callbacks, name))
        self._limits = Limits(
            connect_timeout=settings.seconds("connect_timeout", connect_timeout, none=0.0),
            input_timeout=settings.seconds("input_timeout", input_timeout, none=0.0),
            write_timeout=settings.seconds("write_timeout", write_timeout, none=0.0),
            shutdown_timeout=settings.seconds("shutdown_timeout", shutdown_timeout, none=0.0),
            max_connecting=settings.count("max_connecting", max_connecting, least=1),
            max_output=settings.count("max_output", max_output, least=1),
            max_open=settings.count("max_open", max_open, least=1),
        )
        self._few = max_open is None  # as many as the system allows
        self._lifetime = settings.seconds("lifetime", lifetime, none=0.0)
        _callable("filter", filter, none=False)
        self._filter = filter
        self._events: EventQueue | None = None
        most = settings.count("max_events", max_events, least=1)
        if not any(given):
            self._events = EventQueue(most)
            self._callbacks = self._events.callbacks()
        settings.instance("resolver", resolver, Resolver)
        self._resolver = DNSResolver() if resolver is None else resolver
        self._connectors: dict[str, Connector] = {
            "https": TLSConnector(),
            "unix": UnixConnector(),
            **checked_connectors(connectors),
        }
        self._scheme = self._checked_scheme(scheme)
        self._bind_address = settings.bind_address(bind_address)
        self._driver: Driver | None = None
        self._ended = False  # no new peers
        self._last_id = 0

    # -- its life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start. Does not switch tasks.

        :raises RuntimeError: it was entered before
        """
        if self._driver is not None:
            msg = "a MultiClient can be entered only once"
            raise RuntimeError(msg)
        if self._few:
            self._limits = replace(self._limits, max_open=most_connections())
        self._driver = Driver(
            current_runtime(), self._resolver, self._connectors, self._callbacks, self._limits
        )
        if self._events is not None:
            self._events.core = self._driver.core
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything; exceptions leave the block as they are."""
        await self._aclose(0.0)
        if exc is None:
            await checkpoint()

    async def aclose(self, grace: float | None = 0.0) -> None:
        """Shut all peers down, wait for them, then close those that are left. Switches tasks.

        When cancelled while waiting, it closes them at once.

        :param grace: seconds to wait; None waits as long as `shutdown_timeout` lets it
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        await self._aclose(settings.seconds("grace", grace))
        await checkpoint()

    async def _aclose(self, patience: float) -> None:
        driver = self._running()
        if driver.reactor.closed:
            return
        self._ended = True
        try:
            if patience:
                await self._wait_for_all(driver, patience)
        finally:
            try:
                await driver.aclose()
            finally:
                if self._events is not None:
                    self._events.end()

    async def _wait_for_all(self, driver: Driver, patience: float) -> None:
        core = driver.core
        for record in list(core.records.values()):
            core.shutdown(record, driver.clock())
        if self._events is not None:
            self._events.open_wide()
        if core.places.paused:
            core.resume(driver.clock())
        core.lifecycle.empty = empty = anyio.Event()
        with anyio.move_on_after(None if patience == NEVER else patience):
            while core.records:
                await empty.wait()

    def _running(self) -> Driver:
        driver = self._driver
        if driver is None:
            msg = "the MultiClient has not been entered: use it in `async with`"
            raise RuntimeError(msg)
        driver.check_here()
        return driver

    # -- commands -----------------------------------------------------------------------------------

    def connect(
        self,
        addr: str,
        port: int,
        *,
        scheme: str | None = None,
        bind_address: str | tuple[str, int] | None = None,
        bind_port: int | None = None,
        connect_timeout: float | None = None,
        input_timeout: float | None = None,
        lifetime: float | None = None,
        for_scheme: str | None = None,
        for_addr: str | None = None,
        for_port: int | None = None,
        heap: Mapping[Any, Any] | None = None,
    ) -> Peer:
        """Make a peer and start connecting it, or queue it when `max_connecting` or `max_open` are reached.

        A plain method. ``on_initialize`` is called before it returns; whatever else comes, comes later.

        :param addr: host name, IPv4 or IPv6 address; the path for "unix"
        :param port: 1 to 65535; 0 for "unix"
        :param scheme: "tcp", "https" (TLS), "unix", or a key of `connectors`; by default the client's
        :param bind_address: local address, or (address, port); by default the client's
        :param bind_port: local port
        :param connect_timeout: instead of the client's; 0 for no limit
        :param input_timeout: instead of the client's; 0 for no limit
        :param lifetime: instead of the client's; 0 for no limit
        :param for_addr: what lies behind `addr`, for a connector that wants to know: the server name to send
            and to verify (TLS), or the host that a proxy is to connect to; by default `addr`
        :param for_scheme, for_port: the same, by default `scheme` and `port`
        :param heap: what `Peer.heap` begins with, copied
        :raises TypeError, ValueError: an argument is wrong; the message names it
        :raises ClientClosed: after `die`, or the end of the block
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        driver = self._driver
        if driver is None or self._ended or not driver.reactor.here():
            driver = self._open_driver()
        scheme = self._scheme if scheme is None else self._checked_scheme(scheme)
        if type(port) is not int or not 0 < port < 65536:
            settings.port_number("port", port, least=0 if scheme == "unix" else 1)
        _check_addr(addr, scheme)
        behind: tuple[str, str, int] | None = None
        if for_scheme is not None or for_addr is not None or for_port is not None:
            key = settings.key(scheme, addr, port, for_scheme, for_addr, for_port)
            behind = key.for_scheme, key.for_addr, key.for_port
        limits = self._limits
        timeouts = (
            limits.connect_timeout if connect_timeout is None
            else settings.seconds("connect_timeout", connect_timeout),
            limits.input_timeout if input_timeout is None
            else settings.seconds("input_timeout", input_timeout),
        )  # fmt: skip
        bound = self._bind_address
        if bind_address is not None or bind_port is not None:
            bound = _local(bind_address, bind_port, bound)
        lasts = self._lifetime if lifetime is None else settings.seconds("lifetime", lifetime)
        filled = None if heap is None else _copied(heap)
        codec = self._filter()
        if type(codec) is not LineFilter:
            checked_filter("what filter makes", codec)
        self._last_id += 1
        record = Record(self._last_id, scheme, addr, port, codec, codec, *timeouts, lasts, behind, bound)
        peer = Peer(driver, record, filled)
        driver.core.enter(record, driver.clock())
        return peer

    def _open_driver(self) -> Driver:
        driver = self._running()
        if self._ended or driver.reactor.forked:
            msg = "the MultiClient has died"
            raise ClientClosed(msg)
        return driver

    def send(self, id: int, *units: Any) -> bool:
        """Send units to a peer; see `Peer.send`. An unknown id is ignored.

        :return: False if there is no such peer, or it is shut down
        """
        peer = self._find(id)
        return peer is not None and peer.send(*units)

    def shutdown(self, id: int) -> bool:
        """Shut a peer down; see `Peer.shutdown`. An unknown id is ignored.

        :return: False if there is no such peer, or it was shut down before
        """
        peer = self._find(id)
        return peer is not None and peer.shutdown()

    def close(self, id: int) -> bool:
        """Close a peer at once; see `Peer.close`. An unknown id is ignored.

        :return: False if there is no such peer
        """
        peer = self._find(id)
        return peer is not None and peer.close()

    def die(self) -> None:
        """Close all peers of this client at once, and take no new ones. Idempotent."""
        driver = self._running()
        self._ended = True
        driver.core.die(driver.clock())
        if self._events is not None:
            driver.core.deferred.add(self._events.end)

    def get(self, id: int) -> Peer | None:
        """Return a peer by its id; None when it is closed, or never was."""
        return self._find(id)

    def _find(self, id: int) -> Peer | None:
        if isinstance(id, bool) or not isinstance(id, int):
            msg = f"id must be the id of a peer, not {id!r}"
            raise TypeError(msg)
        record = self._running().core.records.get(id)
        return None if record is None else record.peer

    def _checked_scheme(self, scheme: str) -> str:
        if scheme == TCP or scheme in self._connectors:
            return scheme
        settings.text("scheme", scheme)
        msg = f"scheme must be 'tcp' or a key of connectors, not {scheme!r}"
        raise ValueError(msg)

    # -- insight ------------------------------------------------------------------------------------

    @property
    def peers(self) -> Mapping[int, Peer]:
        """The open peers by their ids, those that wait for their turn included. It changes as they do."""
        return Peers({} if self._driver is None else self._driver.core.records)

    @property
    def connecting(self) -> int:
        """How many attempts are under way."""
        return 0 if self._driver is None else self._driver.core.places.connecting

    @property
    def max_open(self) -> float | None:
        """How many attempts and connections there may be at once; None for no limit, or not known yet.

        By default it is known when the client has been entered.
        """
        return None if self._limits.max_open == NEVER else self._limits.max_open

    def __len__(self) -> int:
        """Return the number of open peers."""
        return 0 if self._driver is None else len(self._driver.core.records)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        state = "new" if self._driver is None else "closed" if self._ended else "open"
        return f"<MultiClient {state}: peers={len(self)} connecting={self.connecting} made={self._last_id}>"

    # -- events -------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        """Iterate over events, of a client without callbacks.

        :raises RuntimeError: not entered yet, or a client with callbacks
        """
        self._running()
        if self._events is None:
            msg = "a MultiClient with callbacks tells its events to them and cannot be iterated over"
            raise RuntimeError(msg)
        return self

    async def __anext__(self) -> Event:
        """Return the next event; when cancelled, none is lost."""
        events = self._events
        assert events is not None, "there is an iterator"
        driver = self._running()
        return await events.take(driver.park, driver.clock)


def _callable(name: str, value: object, *, none: bool = True) -> None:
    if not callable(value) and not (none and value is None):
        msg = f"{name} must be callable, not {value!r}"
        raise TypeError(msg)


def _check_addr(addr: object, scheme: str) -> None:
    if scheme != TCP or not isinstance(addr, str) or not literal(addr):
        settings._host("addr", addr, scheme)


def _copied(heap: object) -> dict[Any, Any]:
    if not isinstance(heap, Mapping):
        msg = f"heap must be a mapping, not {heap!r}"
        raise TypeError(msg)
    return dict(heap)


def _local(address: object, port: object, default: BindAddresses | None) -> BindAddresses:
    """Put local addresses and a port together; without an address, any of the fitting family will do."""
    bound = settings.bind_address(address) or default
    if port is not None:
        number = settings.port_number("bind_port", port, least=0)
        anywhere = {int(socket.AF_INET): ("0.0.0.0", 0), int(socket.AF_INET6): ("::", 0)}
        bound = {family: (host, number) for family, (host, _) in (bound or anywhere).items()}
    assert bound is not None, "one of them was given"
    return bound
