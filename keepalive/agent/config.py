"""The configuration of an agent, from a TOML file: who may reach what, and how many at once."""

from __future__ import annotations

import grp
import os
import pwd
import ssl
import tomllib
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from keepalive import TLSConnector

from .core.policy import Policy, Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from keepalive.abc import Connector

    from .core.policy import Network

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]


class ConfigError(ValueError):
    """What is wrong with a configuration, and where."""


class _Allow(Struct, forbid_unknown_fields=True):
    schemes: list[str]
    hosts: list[str]
    ports: list[int | str] = []


class _Pool(Struct, forbid_unknown_fields=True, omit_defaults=True):
    allow: list[_Allow]
    users: list[int | str] = []
    groups: list[int | str] = []
    shared: bool = False
    loan_timeout: Positive = 60.0
    max_requests: Count = 4096
    # What follows is for the `ConnectionManager` as it is.
    max_per_host: Count | None = None
    max_open: Count | None = None
    max_idle: int | None = None
    keep_alive: float | None = None
    timeout: float | None = None
    connect_timeout: float | None = None
    resolve_timeout: float | None = None
    tls_timeout: float | None = None
    max_waiting: int | None = None
    max_lifetime: float | None = None
    max_uses: Count | None = None
    pause_after: Count | None = None
    retire_moved: bool | None = None


_FOR_MANAGER = _Pool.__struct_fields__[6:]


class _TLS(Struct, forbid_unknown_fields=True):
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    server_hostname: str | None = None
    alpn: list[str] | None = None


class _File(Struct, forbid_unknown_fields=True):
    pools: dict[str, _Pool]
    tls: dict[str, _TLS] = {}
    socket_mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "0600"
    socket_group: int | str | None = None
    drain_timeout: Annotated[float, Meta(ge=0)] = 30.0


@dataclass(frozen=True)
class Config:
    """What an agent goes by.

    :ivar policies: in the order in which they are asked who falls under them
    :ivar limits: the arguments of each pool's `ConnectionManager`, by the pool's name
    :ivar connectors: for the schemes that are TLS
    :ivar socket_mode: of the socket's file
    :ivar socket_group: of the socket's file; None leaves it
    :ivar drain_timeout: seconds that the agent waits for loans when it is told to end
    """

    policies: tuple[Policy, ...]
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    connectors: Mapping[str, Connector] = field(default_factory=lambda: {"https": TLSConnector()})
    socket_mode: int = 0o600
    socket_group: int | None = None
    drain_timeout: float = 30.0


def own_user() -> Config:
    """Return what goes without a file: this user only, who could reach all of it without an agent too."""
    anywhere = Targets(frozenset({"*"}), ("*",), (), ((1, 65535),))
    return Config((Policy("own", frozenset({os.geteuid()}), frozenset(), (anywhere,)),))


def load_config(path: str | Path) -> Config:
    """Read a configuration.

    :raises OSError: the file, or one that it names, cannot be read
    :raises ConfigError: something in it is wrong; the message says where
    """
    with open(path, "rb") as file:
        try:
            read = msgspec.convert(tomllib.load(file), _File)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as exc:
            msg = f"{path}: {exc}"
            raise ConfigError(msg) from exc
    try:
        return _config(read)
    except ConfigError as exc:
        msg = f"{path}: {exc}"
        raise ConfigError(msg) from exc


def _config(read: _File) -> Config:
    if not read.pools:
        msg = "[pools] is empty: nobody could borrow anything"
        raise ConfigError(msg)
    return Config(
        policies=tuple(_policy(name, pool) for name, pool in read.pools.items()),
        limits={name: _limits(pool) for name, pool in read.pools.items()},
        connectors={"https": TLSConnector()} | {name: _tls(name, tls) for name, tls in read.tls.items()},
        socket_mode=int(read.socket_mode, 8),
        socket_group=None if read.socket_group is None else _group(read.socket_group),
        drain_timeout=read.drain_timeout,
    )


def _limits(pool: _Pool) -> dict[str, Any]:
    given = ((name, getattr(pool, name)) for name in _FOR_MANAGER)
    return {name: value for name, value in given if value is not None}


def _policy(name: str, pool: _Pool) -> Policy:
    if not pool.users and not pool.groups:
        msg = f'pools.{name}: users or groups must say whom it is for; users = ["*"] means anybody'
        raise ConfigError(msg)
    return Policy(
        name,
        None if "*" in pool.users else frozenset(map(_user, pool.users)),
        frozenset(map(_group, pool.groups)),
        tuple(_targets(f"pools.{name}.allow[{n}]", allow) for n, allow in enumerate(pool.allow)),
        pool.shared,
        pool.loan_timeout,
        pool.max_requests,
    )


def _user(value: int | str) -> int:
    return _numbered("user", value, lambda name: pwd.getpwnam(name).pw_uid)


def _group(value: int | str) -> int:
    return _numbered("group", value, lambda name: grp.getgrnam(name).gr_gid)


def _numbered(what: str, value: int | str, look_up: Callable[[str], int]) -> int:
    if isinstance(value, int):
        return value
    try:
        return look_up(value)
    except KeyError:
        msg = f"there is no {what} {value!r}"
        raise ConfigError(msg) from None


def _targets(where: str, allow: _Allow) -> Targets:
    names, networks = [], []
    for host in allow.hosts:
        network = _network(host)
        if network is None:
            names.append(host)
        else:
            networks.append(network)
    if not allow.ports and allow.schemes != ["unix"]:
        msg = f"{where}: ports are missing"
        raise ConfigError(msg)
    return Targets(
        frozenset(allow.schemes),
        tuple(names),
        tuple(networks),
        tuple(_ports(f"{where}.ports", given) for given in allow.ports),
    )


def _network(host: str) -> Network | None:
    try:
        return ip_network(host)
    except ValueError:
        if "/" in host and host[0].isdigit():
            msg = f"{host!r} is neither a network nor a name"
            raise ConfigError(msg) from None
        return None


def _ports(where: str, given: int | str) -> tuple[int, int]:
    low, dash, high = str(given).partition("-")
    if not (low.isdecimal() and (high.isdecimal() or not dash)):
        msg = f"{where}: {given!r} is neither a port nor a range like 8000-8099"
        raise ConfigError(msg)
    span = int(low), int(high or low)
    if not 1 <= span[0] <= span[1] <= 65535:
        msg = f"{where}: {given!r} is not within 1-65535"
        raise ConfigError(msg)
    return span


def _tls(name: str, tls: _TLS) -> TLSConnector:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
        return TLSConnector(context, tls.server_hostname, tls.alpn)
    except (OSError, ValueError) as exc:
        msg = f"tls.{name}: {exc}"
        raise ConfigError(msg) from exc
