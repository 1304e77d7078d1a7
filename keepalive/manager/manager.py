"""The connection manager, as its users see it."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint

from keepalive.base import arguments
from keepalive.base.types import NEVER, Key
from keepalive.connect.connector import checked_connectors
from keepalive.connect.happy_eyeballs import STAGGER
from keepalive.connect.lifecycle import checked_lifecycles
from keepalive.errors import ManagerClosed, QueueFull
from keepalive.manager.observer import Observer
from keepalive.pool.states import LENT, SHARED, Limits
from keepalive.resolve.dns import DNSResolver
from keepalive.resolve.resolver import Resolver
from keepalive.transport.loops import current_runtime

from .connection import Connection
from .driver import Driver
from .error_mapping import numbers
from .fleet import Fleet
from .key_settings import checked_settings
from .options import Options
from .request import Request
from .stats import Stats, describe, described, snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from keepalive.connect.connector import Connector
    from keepalive.connect.lifecycle import Lifecycle

    from .key_settings import KeySettings
    from .preconnect import WarmUp

    BindAddress = str | tuple[str, int]

__all__ = ("ConnectionManager",)


class ConnectionManager:
    """Keeps connections for reuse, opens new ones within limits, and lets requests wait for either.

    Use it as an async context manager, entered and left by one task; every other call may come from any
    task of that event loop. Leaving the block closes everything, lent connections included.

    :param max_per_host: the most connections per key, > 0, or None
    :param max_open: the most connections in all, > 0, or None; both count attempts, lent, idle, closing ones
    :param max_idle: the most idle connections in all; one more closes the least recently used of them, of
        whatever key. 0 keeps none (a waiting request still gets a released one), None has no such limit
    :param keep_alive: seconds an idle connection is kept; 0 keeps none, None keeps them for ever
    :param timeout: seconds a request may take in all, unless it says otherwise; None for no limit
    :param resolver: turns host names into addresses; by default a `DNSResolver`
    :param bind_address: local address, or (address, port), for outgoing connections: only addresses of its
        family are then tried; or a pair of these, one of IPv4 and one of IPv6
    :param connect_timeout: seconds one attempt may take, all addresses and TLS included, not the names
    :param resolve_timeout: seconds one attempt may take to look up its names
    :param tls_timeout: seconds one attempt may take for TLS
    :param setup_timeout: seconds one attempt may take for `opened`, and until `run` has set a capacity
    :param stagger: seconds until the next address is tried beside a silent one (RFC 8305); None: in turn
    :param max_waiting: the most requests that may wait without an attempt; 0 means never queue
    :param max_lifetime: seconds after which a connection is closed when free, up to 5 % earlier
    :param max_uses: how many times a connection is handed out
    :param pause_after: after so many failed attempts of a key in a row, > 0, no other is started for a
        while: 0.1 s, doubled by each further failure; then one at a time until one succeeds. Requests that
        nothing open could serve fail at once meanwhile, with the last failure's error. None never pauses
    :param max_pause: seconds such a pause lasts at most, > 0
    :param retire_moved: retire connections whose address has left what their name stands for: idle ones
        close, lent ones when they are given back. Names in use are then asked for again when their
        answers have become old. Not for names that give out other addresses each time
    :param reuse_dropped: reuse a quiet connection whose handle was garbage-collected in use
    :param connectors: what opens connections, by scheme; by default TLS for "https", "unix", and TCP
    :param lifecycles: what the protocol of a scheme does with its connections; see `abc.Lifecycle`
    :param check_after: seconds of idleness after which its life cycle's `check` is asked; None never
    :param check_timeout: seconds such a check, or a reset, may take; then the connection is closed
    :param settings: what differs for some keys: `KeySettings` by scheme, by (scheme, host) or by (scheme,
        host, port); what is said of the narrowest counts
    :param observer: told of every transition
    :param fleet: limits over many managers, beside those of this one: `keepalive.fleet.RedisFleet`
    :raises TypeError: an argument of the wrong type
    :raises ValueError: an argument out of range
    """

    def __init__(
        self,
        *,
        max_per_host: int | None = 4,
        max_open: int | None = 128,
        max_idle: int | None = None,
        keep_alive: float | None = 15.0,
        timeout: float | None = 120.0,
        resolver: Resolver | None = None,
        bind_address: BindAddress | tuple[BindAddress, BindAddress] | None = None,
        connect_timeout: float | None = None,
        resolve_timeout: float | None = None,
        tls_timeout: float | None = None,
        setup_timeout: float | None = None,
        stagger: float | None = STAGGER,
        max_waiting: int | None = None,
        max_lifetime: float | None = None,
        max_uses: int | None = None,
        pause_after: int | None = None,
        max_pause: float = 30.0,
        retire_moved: bool = False,
        reuse_dropped: bool = False,
        connectors: Mapping[str, Connector] | None = None,
        lifecycles: Mapping[str, Lifecycle[Any]] | None = None,
        check_after: float | None = 5.0,
        check_timeout: float = 5.0,
        settings: Mapping[Any, KeySettings] | None = None,
        observer: Observer | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self._limits = Limits(
            max_per_host=arguments.count("max_per_host", max_per_host, least=1),
            max_open=arguments.count("max_open", max_open, least=1),
            max_idle=arguments.count("max_idle", max_idle, least=0),
            keep_alive=arguments.seconds("keep_alive", keep_alive),
            connect_timeout=arguments.positive_seconds("connect_timeout", connect_timeout),
            resolve_timeout=arguments.positive_seconds("resolve_timeout", resolve_timeout),
            tls_timeout=arguments.positive_seconds("tls_timeout", tls_timeout),
            setup_timeout=arguments.positive_seconds("setup_timeout", setup_timeout),
            check_timeout=arguments.positive_seconds("check_timeout", check_timeout),
            max_waiting=arguments.count("max_waiting", max_waiting, least=0),
            max_uses=arguments.count("max_uses", max_uses, least=1),
            pause_after=arguments.count("pause_after", pause_after, least=1),
            max_pause=arguments.positive_seconds("max_pause", max_pause),
        )
        self._timeout = arguments.seconds("timeout", timeout, any_sign=True)
        arguments.instance("resolver", resolver, Resolver)
        arguments.instance("observer", observer, Observer)
        arguments.instance("fleet", fleet, Fleet)
        self.lifecycles = checked_lifecycles(lifecycles)
        self._options = Options(
            resolver=DNSResolver() if resolver is None else resolver,
            connectors=checked_connectors(connectors),
            bind_address=arguments.bind_address(bind_address),
            stagger=arguments.seconds("stagger", stagger),
            max_lifetime=arguments.positive_seconds("max_lifetime", max_lifetime),
            check_after=arguments.seconds("check_after", check_after),
            lifecycles=self.lifecycles,
            settings=checked_settings(settings),
            retire_moved=arguments.flag("retire_moved", retire_moved),
            reuse_dropped=arguments.flag("reuse_dropped", reuse_dropped),
            observer=observer,
            fleet=fleet,
        )
        self._driver: Driver | None = None

    # -- its life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start. Switches tasks only to join a fleet, which may raise `FleetError`.

        :raises RuntimeError: it was entered before
        """
        if self._driver is not None:
            msg = "a ConnectionManager can be entered only once"
            raise RuntimeError(msg)
        self._driver = driver = Driver(self._limits, self._options, current_runtime())
        await driver.begin()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything; exceptions leave the block as they are."""
        driver = self._running()
        if not driver.reactor.closed:
            driver.shutdown()
            await driver.close()
        if exc_type is None:
            await checkpoint()  # after an exception, a cancellation met here would take its place

    def shutdown(self) -> None:
        """End the service: requests get `ManagerClosed`, attempts and look-ups are aborted, idle
        connections closed. Lent ones stay usable and are closed when given back. Idempotent.

        :raises RuntimeError: not entered yet, or another event loop or thread
        """  # noqa: D205  # one sentence that does not fit a line
        self._running().shutdown()

    async def aclose(self, grace: float | None = 0.0) -> None:
        """Shut down, wait for lent connections to be given back, then cut those that were not.

        When cancelled while waiting, it cuts at once. Switches tasks.

        :param grace: seconds to wait; None waits as long as it takes
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        patience = arguments.seconds("grace", grace)
        driver = self._running()
        if driver.reactor.closed:
            return
        driver.shutdown()
        try:
            if patience:
                await driver.drain(patience)
        finally:
            await driver.close()
        await checkpoint()

    @property
    def usable(self) -> bool:
        """Whether it serves requests made here: entered in this event loop and process, and not shut down."""
        driver = self._driver
        return driver is not None and driver.reactor.here() and not driver.pool.closed

    def abandon(self) -> bool:
        """Close everything if the event loop it was entered in has ended without it. A plain method.

        :return: whether it is closed: now, before, or as a forked child's copy
        """
        return self._driver is None or self._driver.reactor.end_after_loop()

    def _running(self) -> Driver:
        driver = self._driver
        if driver is None:
            msg = "the ConnectionManager has not been entered: use it in `async with`"
            raise RuntimeError(msg)
        driver.check_here()
        return driver

    def time(self) -> float:
        """Return the time, in seconds, of the clock by which its connections' deadlines go."""
        return self._running().now()

    # -- requests -----------------------------------------------------------------------------------

    def allocate(
        self,
        scheme: str,
        addr: str,
        port: int,
        timeout: float | None = None,
        *,
        for_scheme: str | None = None,
        for_addr: str | None = None,
        for_port: int | None = None,
        context: object = None,
        fresh: bool = False,
        queue_timeout: float | None = None,
        open_timeout: float | None = None,
    ) -> Request:
        """Request a connection; the request is entered before this returns. A plain method.

        An idle connection of the key is handed out without switching tasks. Otherwise the request waits,
        first come, first served within its key, for whatever comes first: a connection given back, or a
        new one. Note that a loop of hits without I/O lets no other task run.

        :param scheme: "https" means TLS, "unix" a Unix socket, any other word plain TCP, unless
            `connectors` says otherwise
        :param addr: host name, IPv4 or IPv6 address; the path for "unix"
        :param port: 1 to 65535; 0 for "unix"
        :param timeout: seconds for waiting, resolving, connecting and TLS together; by default the
            manager's. With 0 or less the request fails when awaited unless an idle connection is there
        :param for_scheme, for_addr, for_port: what lies behind the address when that is a proxy; they are
            part of the key
        :param context: given back as ``conn.context`` and with errors
        :param fresh: never take a used connection
        :param queue_timeout: seconds to wait while no attempt stands for the request, for want of room
        :param open_timeout: seconds from when an attempt stands for the request, its names and TLS
            included. Each of these two begins with its phase, and `timeout` ends both; 0 means at once
        :raises TypeError, ValueError: an argument is wrong; the message names it
        :raises QueueFull: `max_waiting` requests wait already
        :raises ManagerClosed: the manager has been shut down
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        driver = self._driver
        if driver is None or get_ident() != driver.serves or not driver.running():
            driver = self._open_driver()
        if fresh not in (True, False):
            arguments.flag("fresh", fresh)
        seconds = self._timeout
        if timeout is not None:
            seconds = arguments.seconds("timeout", timeout, none=None, any_sign=True)
        pool = driver.pool
        per_key = None
        try:
            if for_scheme is None and for_addr is None and for_port is None:
                per_key = pool.keys.direct.get((scheme, addr, port))
            elif type(for_port) is int:
                whole: Any = (scheme, addr, port, for_scheme, for_addr, for_port)
                per_key = pool.keys.states.get(whole)
        except TypeError:
            pass  # an argument that cannot be a part of any key; told below
        if per_key is None or type(port) is not int:  # for a dict, 80 == 80.0
            per_key = pool.keys.of(arguments.key(scheme, addr, port, for_scheme, for_addr, for_port))
        phases = None
        if queue_timeout is not None or open_timeout is not None:
            phases = (
                arguments.seconds("queue_timeout", queue_timeout),
                arguments.seconds("open_timeout", open_timeout),
            )
        now = driver.now()
        waiter = pool.enter(per_key, now, now + seconds, fresh, phases)
        if pool.effects or pool.timers.earliest < driver.armed:
            driver.act()
        if pool.requests.uncovered > pool.limits.max_waiting and pool.overfull(waiter):
            driver.refuse(waiter)
            msg = f"request {waiter.id} for {per_key.key} cannot be queued; {numbers(waiter, driver.pool)}"
            raise QueueFull(msg)
        return Request(driver, waiter, context)

    def _open_driver(self) -> Driver:
        driver = self._running()
        if driver.pool.closed:
            msg = "the ConnectionManager has been shut down"
            raise ManagerClosed(msg)
        return driver

    def deallocate(self, req_id: int) -> bool:
        """Cancel a request by its number; its awaiter gets `RequestCancelled`. A plain method.

        :return: True if the request was pending in whatever phase, or served but not yet fetched; False if
            it had ended. A connection that somebody holds is never touched
        :raises ValueError: this manager never issued that number
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        driver = self._running()
        arguments.issued("req_id", req_id, driver.pool.requests.last_id)
        waiter = driver.pool.requests.open.get(req_id)
        return waiter is not None and driver.withdraw(waiter)

    def free(self, conn: Connection) -> None:
        """Give a connection back, as `Connection.release`, but be strict about what that is.

        :raises ValueError: None, an object that is not a connection of this manager, or one that is not
            lent (given back before)
        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        driver = self._running()
        given: object = conn  # whatever the annotation says
        if not isinstance(given, Connection) or given._driver is not driver:
            msg = f"{conn!r} is not a connection of this manager"
            raise ValueError(msg)
        if conn._link is None or conn._slot.state not in (LENT, SHARED):
            msg = f"{conn!r} is not lent"
            raise ValueError(msg)
        conn.release()

    def preconnect(
        self,
        scheme: str,
        addr: str,
        port: int,
        n: int = 1,
        *,
        for_scheme: str | None = None,
        for_addr: str | None = None,
        for_port: int | None = None,
    ) -> WarmUp:
        """Open connections before anybody asks for them, until `n` of this key are idle or on their way.

        A plain method; what it returns may be awaited, to wait for their end. It uses only room that is
        free: nothing is closed for it, the limits hold, and another key that needs the room takes it back.
        The attempts live for 10 seconds at most unless a request comes to wait for them. Connections that
        were opened so are kept for `keep_alive` seconds, and count as new when they are first lent.

        :param scheme, addr, port, for_scheme, for_addr, for_port: the key, as for `allocate`
        :param n: how many, > 0
        :raises TypeError, ValueError, ManagerClosed, RuntimeError: as `allocate` does
        """
        driver = self._open_driver()
        ready = arguments.whole("n", n, least=1, most=1_000_000)
        key = arguments.key(scheme, addr, port, for_scheme, for_addr, for_port)
        return driver.preconnect(driver.pool.keys.of(key), ready)

    def evict(
        self,
        scheme: str | None = None,
        addr: str | None = None,
        port: int | None = None,
        *,
        for_scheme: str | None = None,
        for_addr: str | None = None,
        for_port: int | None = None,
    ) -> int:
        """Close the idle connections of a key, a host or all; lent ones close when they are given back.

        A plain method. A part that is None matches any: ``evict()`` means all connections,
        ``evict(addr="db1")`` all of one host. For use after a fail-over, a change of certificates or the
        like: what is allocated from now on is new, no TLS session of before is resumed in it, and the
        remembered addresses of the host, or of all where `addr` is None, are forgotten. Attempts under way
        go on, and so do requests that wait.

        :return: how many idle ones were closed
        """
        driver = self._running()
        parts = zip(Key._fields, (scheme, addr, port, for_scheme, for_addr, for_port), strict=True)
        wanted = {name: arguments.part(name, value) for name, value in parts if value is not None}

        def concerned(key: Key) -> bool:
            return all(getattr(key, name) == value for name, value in wanted.items())

        driver.names.forget(addr)
        return driver.retire(concerned)

    def set_limits(
        self,
        *,
        max_per_host: int | None = None,
        max_open: int | None = None,
        max_idle: int | None = None,
        settings: Mapping[Any, KeySettings] | None = None,
    ) -> None:
        """Change the limits of a running manager. A plain method.

        Raised limits let waiting requests open connections at once. What is idle beyond lowered ones closes
        at once, what is lent beyond them when it is given back.

        :param max_per_host: the new limit per key, > 0; None keeps it
        :param max_open: the new limit in all, > 0; None keeps it
        :param max_idle: the new limit of idle ones; None keeps it
        :param settings: in place of all that single keys had; None keeps them
        """
        driver = self._running()
        if settings is not None:
            driver.limits_of.settings = checked_settings(settings)
        given = {
            "max_per_host": arguments.count("max_per_host", max_per_host, least=1),
            "max_open": arguments.count("max_open", max_open, least=1),
            "max_idle": arguments.count("max_idle", max_idle, least=0),
        }
        driver.set_limits({name: n for name, n in given.items() if n != NEVER})

    # -- insight ------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return a frozen snapshot of all counts, per key too. O(keys). Possible after the end too.

        :raises RuntimeError: not entered yet, or another event loop or thread
        """
        driver = self._driver
        if driver is None or not driver.reactor.closed:
            driver = self._running()
            driver.reactor.poller.harvest()
        return snapshot(driver.pool, driver.sessions)

    def __repr__(self) -> str:
        driver = self._driver
        if driver is None:
            return describe("new", Stats())
        return described(driver.pool, driver.sessions, here=driver.reactor.here())
