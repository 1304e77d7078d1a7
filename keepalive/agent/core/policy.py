"""Who may reach what. Nothing is allowed that is not listed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from posixpath import normpath
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keepalive.base.types import Key

Network: TypeAlias = "IPv4Network | IPv6Network"


@dataclass(frozen=True, slots=True)
class Targets:
    """One rule: what may be connected to.

    :ivar schemes: the words for the kind of connection; "*" for any
    :ivar hosts: names, or patterns of them: "*.example.com" is any name below example.com, "*" any host. For
        "unix" paths, in which a "*" stands for anything but a slash
    :ivar networks: addresses, which only literal addresses match: what a name resolves to is not asked
    :ivar ports: ranges, ends included
    """

    schemes: frozenset[str]
    hosts: tuple[str, ...]
    networks: tuple[Network, ...]
    ports: tuple[tuple[int, int], ...]

    def allow(self, key: Key) -> bool:
        """Say whether this rule allows the near end of a key, which is all that is connected to."""
        if key.scheme not in self.schemes and "*" not in self.schemes:
            return False
        if key.scheme == "unix":
            return any(_path_matches(path, key.addr) for path in self.hosts)
        if not any(low <= key.port <= high for low, high in self.ports):
            return False
        return any(_host_matches(host, key.addr) for host in self.hosts) or self._in_networks(key.addr)

    def _in_networks(self, addr: str) -> bool:
        if not self.networks:
            return False
        try:
            address = ip_address(addr.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:10.0.0.1 reaches 10.0.0.1
        return any(
            one in network for network in self.networks for one in (address, mapped) if one is not None
        )


def _host_matches(pattern: str, addr: str) -> bool:
    addr = addr.rstrip(".").lower()
    pattern = pattern.rstrip(".").lower()
    if pattern == "*":
        return True
    return addr.endswith(pattern[1:]) if pattern.startswith("*.") else addr == pattern


def _path_matches(pattern: str, path: str) -> bool:
    if path.startswith("\0"):
        path = "@" + path[1:]  # an abstract name, as it is written everywhere
    elif normpath(path) != path or not path.startswith("/"):
        return False  # /run/app/../secret would pass for something below /run/app
    return pattern == "*" or _compiled(pattern).fullmatch(path) is not None


@lru_cache(256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))


@dataclass(frozen=True, slots=True)
class Policy:
    """What one kind of user may do.

    :ivar name: the name of the pool
    :ivar users: numbers of users; None for anybody
    :ivar groups: numbers of groups
    :ivar targets: what may be reached
    :ivar shared: one pool for all of these users; else each has his own, and no connection crosses over
    :ivar loan_timeout: seconds that a silent borrower keeps its loans at most
    :ivar max_requests: how many requests and loans one borrower may have at a time
    """

    name: str
    users: frozenset[int] | None
    groups: frozenset[int]
    targets: tuple[Targets, ...]
    shared: bool = False
    loan_timeout: float = 60.0
    max_requests: int = 4096

    def concerns(self, user: int, groups: Iterable[int]) -> bool:
        """Say whether a user falls under it."""
        return self.users is None or user in self.users or not self.groups.isdisjoint(groups)

    def closed(self) -> Policy:
        """Return what holds when it has left the configuration: nothing may be reached."""
        return replace(self, targets=())

    def allows(self, key: Key) -> bool:
        """Say whether a key may be connected to."""
        return any(rule.allow(key) for rule in self.targets)


def policy_for(policies: Iterable[Policy], user: int, groups: Iterable[int]) -> Policy | None:
    """Return the first policy that a user falls under; None for a stranger."""
    groups = frozenset(groups)
    return next((policy for policy in policies if policy.concerns(user, groups)), None)
