"""The default resolver: the hosts file, then DNS, on the event loop."""

from __future__ import annotations

import errno
import itertools
import math
import os
import socket
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from keepalive.base import arguments as settings
from keepalive.base.addresses import is_literal
from keepalive.base.hostname import WrongName, ascii_name
from keepalive.resolve.resolver import Resolution

from . import resolv_conf as _resolv
from .files import LOOK_EVERY, Watched
from .hosts_file import HostsFile
from .resolv_conf import Config
from .server_status import ServerStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .dns_client import Found
    from .resolv_conf import Server

PATIENCE = 1.0
"""Seconds that one family waits for the other, once there is an address."""
PARTIAL_TTL = 10.0
"""Seconds for which the addresses of one family are remembered, at most, when nobody told of the other."""
ROOM_PATIENCE = 1.0
"""Seconds to wait for a free descriptor to ask with."""
ROOM_PAUSE = 0.02
"""Seconds between two looks."""
NEVER_THERE = ("invalid", "onion")
"""Top-level names that DNS must not be asked for (RFC 6761 6.4, RFC 7686)."""


class NotFound(socket.gaierror):
    """It is known that there is no address.

    :ivar ttl: for how many seconds this may be remembered
    """

    def __init__(self, why: str, ttl: float) -> None:
        super().__init__(socket.EAI_NONAME, why)
        self.ttl = ttl


class DNSResolver:
    """Asks name servers, on the event loop, after the hosts file. No thread is used.

    It goes by ``/etc/resolv.conf``: servers, search list, ndots, timeout, attempts, rotate, use-vc,
    no-aaaa; and reads it, and the hosts file, again when they have changed. The environment's
    ``LOCALDOMAIN`` (a search list) and ``RES_OPTIONS`` go before it; without a search list the domain in
    the machine's name is searched. A server that does not answer is asked last for half a minute, and when
    nobody can tell, nobody is asked again for a second (RFC 9520). It knows nothing of
    ``nsswitch.conf``, mDNS (``.local``) or name servers per domain; `SystemResolver` does. IPv6 addresses
    come first where the machine has a route to them.

    All arguments but the first go by name; None leaves them to ``resolv.conf``. One resolver may serve
    several managers, in several event loops. dnspython is loaded by the first question.

    :param nameservers: whom to ask instead: "address", "address:port" or "[address]:port"; then
        ``resolv.conf`` is not read at all, nor the machine's name
    :param search: domains to try for names that are not absolute (do not end with a dot)
    :param ndots: names with so many dots, 0 to 15, are tried as they are first
    :param timeout: seconds, > 0, to wait for each server; each further round takes twice as long. Without
        a word in ``resolv.conf`` 2
    :param attempts: how many rounds, 1 to 20; without a word in ``resolv.conf`` 2
    :param rotate: start with another server each time
    :param hosts: the hosts file; None for no such file
    :param resolv_conf: read where `nameservers` is None
    :param min_ttl: answers live for so many seconds at least, negative ones too
    :param max_ttl: and for so many at most
    :param max_negative_ttl: and negative ones for so many at most
    :param stale: for how many seconds an outdated answer may still serve when a refresh fails or is slow
        (RFC 8767)
    """

    absolute_names = True
    look_every = LOOK_EVERY
    """Seconds between two looks at whether a file has changed; for classes derived from this one."""
    port = _resolv.PORT
    """The port of the name servers in ``resolv.conf``, which cannot name one; likewise."""

    def __init__(
        self,
        nameservers: Sequence[str] | None = None,
        *,
        search: Sequence[str] | None = None,
        ndots: int | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
        rotate: bool | None = None,
        hosts: str | None = "/etc/hosts",
        resolv_conf: str = "/etc/resolv.conf",
        min_ttl: float = 1.0,
        max_ttl: float = 86400.0,
        max_negative_ttl: float = 300.0,
        stale: float = 0.0,
    ) -> None:
        self._given = {
            "servers": None if nameservers is None else _servers(nameservers),
            "search": None if search is None else _search(search),
            "ndots": None if ndots is None else settings.whole("ndots", ndots, least=0, most=15),
            "timeout": None if timeout is None else settings.positive_seconds("timeout", timeout),
            "attempts": None if attempts is None else settings.whole("attempts", attempts, least=1, most=20),
            "rotate": None if rotate is None else settings.flag("rotate", rotate),
        }
        self._given = {name: value for name, value in self._given.items() if value is not None}
        self._min_ttl = settings.seconds("min_ttl", min_ttl, none=None)
        self._max_ttl = settings.seconds("max_ttl", max_ttl, none=None)
        if self._min_ttl > self._max_ttl:
            msg = f"min_ttl must not be more than max_ttl, {max_ttl!r}, not {min_ttl!r}"
            raise ValueError(msg)
        self._max_negative_ttl = settings.seconds("max_negative_ttl", max_negative_ttl, none=None)
        self._stale = settings.seconds("stale", stale, none=None)
        self._hosts = None if hosts is None else HostsFile(settings.text("hosts", hosts), self.look_every)
        path = settings.text("resolv_conf", resolv_conf)
        self._file: Watched[Config] | None = None
        if nameservers is None:
            self._file = Watched(path, self._read, look_every=self.look_every)
        else:
            self._alone = _resolv.surroundings(Config(), os.environ, "")
        self._turns = itertools.count()
        self._status = ServerStatus()

    async def resolve(self, host: str) -> Resolution:
        """Return all addresses of a host name. Switches tasks. Waits for both families, see `resolve_parts`.

        :raises OSError: there is no such name, it has no address, or no name server could tell (a
            `socket.gaierror`); the name is wrong (a `ValueError` too)
        """
        return await self.resolve_parts(host, lambda _: None)

    async def resolve_parts(self, host: str, part: Callable[[Resolution], None]) -> Resolution:
        """Do as `resolve`, and call `part` with each family's addresses as soon as they are there."""
        name = ascii_name(host)
        if is_literal(name.removesuffix(".")):
            return Resolution((name.removesuffix("."),), math.inf)
        give_up = anyio.current_time() + ROOM_PATIENCE
        while True:
            try:
                return await self._look_up(name, part)
            except OSError as exc:
                short = exc.errno in (errno.EMFILE, errno.ENFILE) and not isinstance(exc, socket.gaierror)
                if not short or anyio.current_time() >= give_up:
                    raise
            await anyio.sleep(ROOM_PAUSE)  # nothing tells when a descriptor is free

    def edition(self) -> object:
        """Return something that is different when the files have changed: then old answers hold no more."""
        files = (self._hosts, self._file)
        return tuple(None if file is None else file.edition() for file in files)

    async def _look_up(self, name: str, part: Callable[[Resolution], None]) -> Resolution:
        bare = name.removesuffix(".")
        known = self._hosts is not None and await self._hosts.addresses(bare)
        if known:
            return Resolution(_sorted(known), self.look_every)
        if bare.rpartition(".")[2] in NEVER_THERE:
            raise NotFound("no such name", self._max_negative_ttl)
        config = self._config()
        servers = config.servers
        if config.rotate:
            first = next(self._turns) % len(servers)
            servers = servers[first:] + servers[:first]

        def tell(found: Found) -> None:
            part(self._resolution(found))

        exists, ttl, failed = False, math.inf, None
        for candidate in _resolv.candidates(name, config.search, config.ndots):
            try:
                found = await _ask_families(candidate, servers, config, self._status, tell)
            except OSError as exc:
                # Servers refuse single labels that stand alone. Of any other name that nobody can tell
                # of, what comes later in the list may be somebody else's host.
                if candidate != name or "." in name or not getattr(exc, "told", False):
                    raise
                failed = exc
                continue
            if found.addresses:
                return self._resolution(found._replace(addresses=_sorted(found.addresses)))
            exists, ttl = exists or found.exists, min(ttl, found.ttl)
        if failed is not None:
            raise failed
        lasts = min(max(ttl, self._min_ttl), self._max_negative_ttl)
        raise NotFound("the name has no address" if exists else "no such name", lasts)

    def _config(self) -> Config:
        config = self._alone if self._file is None else self._file.value()
        return replace(config, **self._given) if self._given else config  # type: ignore[arg-type]  # checked

    def _read(self, text: str, complain: Callable[[int, str], None]) -> Config:
        config = _resolv.parse(text, complain, self.port)
        return _resolv.surroundings(config, os.environ, socket.gethostname())

    def _resolution(self, found: Found) -> Resolution:
        ttl = min(max(found.ttl, self._min_ttl), self._max_ttl)
        return Resolution(found.addresses, ttl, self._stale, found.partial)


async def _ask_families(
    name: str, servers: Sequence[Server], config: Config, status: ServerStatus, tell: Callable[[Found], None]
) -> Found:
    """Ask for both families at once. A family that fails or is late does not hold up the other for long.

    :raises OSError: nobody could tell whether there is an address
    """
    from .dns_client import Found, ask  # only here: dnspython takes a while to load

    kinds = ("A",) if config.no_ipv6 else ("AAAA", "A")
    found: dict[str, Found] = {}
    errors: list[OSError] = []

    async def one(kind: str) -> None:
        try:
            result = await ask(name, kind, servers, config, status)
        except OSError as exc:
            errors.append(exc)
            return
        found[kind] = result
        if len(found) + len(errors) < len(kinds):
            if result.addresses:
                tell(result)
            elif result.exists or kind != "A":
                return
            # What does not exist for one type does not for any (RFC 8020), but see below for AAAA.
            group.cancel_scope.deadline = anyio.current_time() + PATIENCE

    async with anyio.create_task_group() as group:
        for kind in kinds:
            group.start_soon(one, kind)
    addresses = tuple(address for kind in kinds if kind in found for address in found[kind].addresses)
    if errors and not addresses and all(result.exists for result in found.values()):
        raise errors[0]
    ttl = min(result.ttl for result in found.values() if bool(result.addresses) is bool(addresses))
    partial = len(found) < len(kinds)
    if partial:
        ttl = min(ttl, PARTIAL_TTL)
    # Some servers deny the whole name when they are asked for AAAA (RFC 4074 4.2).
    return Found(addresses, ttl, any(result.exists for result in found.values()), partial)


def _sorted(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Put the family first that the machine prefers; the order within a family stays (RFC 6724, in short)."""
    v6 = [address for address in addresses if ":" in address]
    v4 = [address for address in addresses if ":" not in address]
    if not v4 or not v6:
        return addresses
    return tuple([*v6, *v4] if _has_route(v6[0]) else [*v4, *v6])


def _has_route(address: str) -> bool:
    """Say whether the machine would know where to send to; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 53))
    except OSError:
        return False
    return True


def _several(name: str, what: str, value: object) -> Iterable[object]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        msg = f"{name} must be a sequence of {what}, not {value!r}"
        raise TypeError(msg)
    return value


def _servers(value: object) -> tuple[Server, ...]:
    found = tuple(_server(entry) for entry in _several("nameservers", "addresses", value))
    if not found:
        msg = "nameservers must not be empty"
        raise ValueError(msg)
    return found


def _server(entry: object) -> Server:
    address = settings.text("an entry of nameservers", entry)
    if is_literal(address):
        return address, _resolv.PORT
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        fits = ":" in host
    else:
        fits = ":" not in host
    if not fits or not is_literal(host) or not (port.isascii() and port.isdecimal() and len(port) < 6):
        msg = f"an entry of nameservers must be 'address', 'address:port' or '[address]:port', not {entry!r}"
        raise ValueError(msg)
    return host, settings.port_number("a port in nameservers", int(port), least=1)


def _search(value: object) -> tuple[str, ...]:
    domains = [settings.text("a domain in search", item) for item in _several("search", "domains", value)]
    try:
        return tuple(ascii_name(domain).removesuffix(".") for domain in domains)
    except WrongName as exc:
        msg = f"search: {exc.strerror}"
        raise ValueError(msg) from None
