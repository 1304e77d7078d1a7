"""How to ask DNS: resolv.conf(5), and which names to try for one that is given."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from keepalive.base.addresses import is_literal

from .check import LONGEST_NAME, WrongName, ascii_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger("keepalive")

Server = tuple[str, int]

PORT = 53
LOCAL: Server = ("127.0.0.1", PORT)
"""Who is asked where no name server is given; resolv.conf(5)."""
TIMEOUT = 2.0
"""Seconds for the first try of each server, if nobody says otherwise; resolv.conf(5) has 5."""

# The most that resolv.conf(5) allows for each of these options, and the least that makes sense.
BOUNDS = {"ndots": (0, 15), "timeout": (1, 30), "attempts": (1, 5)}


@dataclass(frozen=True, slots=True)
class Config:
    """What a resolver goes by."""

    servers: tuple[Server, ...] = (LOCAL,)  # whom to ask, in this order
    search: tuple[str, ...] = ()  # domains to try for names that are not absolute
    ndots: int = 1  # a name with so many dots is tried as it is first, then with the search list
    timeout: float = TIMEOUT  # seconds for the first try of each server; each round takes twice as long
    attempts: int = 2  # how many rounds
    rotate: bool = False  # start with another server each time
    by_tcp: bool = False  # do not use UDP (option use-vc)
    no_ipv6: bool = False  # do not ask for AAAA (option no-aaaa)
    searches: bool = field(default=False, compare=False)  # the file says what to search, if only nothing


def parse(text: str, complain: Callable[[int, str], None], port: int = PORT) -> Config:
    """Return what a resolv.conf says. Wrong lines and words are skipped, what is unknown is ignored."""
    servers: list[Server] = []
    search: tuple[str, ...] | None = None
    options: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        match words:
            case ["nameserver", address, *_] if is_literal(address):
                servers.append((address, port))
            case ["nameserver", *rest]:
                complain(number, f"{' '.join(rest)[:100]!r} is no address")
            case ["domain" | "search", *domains]:
                search = _domains(domains, number, complain)  # the last such line counts
            case ["options", *given]:
                for option in given:
                    _option(option, options, number, complain)
    config = Config(servers=tuple(servers) or (LOCAL,), search=search or (), searches=search is not None)
    return _with_options(config, options)


def surroundings(config: Config, environ: Mapping[str, str], host_name: str) -> Config:
    """Return a configuration with what the environment and the machine's name say; resolv.conf(5).

    ``LOCALDOMAIN`` takes the place of the search list, ``RES_OPTIONS`` goes before the options. Without a
    search list, the domain in the machine's name is searched.

    :param host_name: "" to search none
    """
    options: dict[str, int] = {}
    for word in environ.get("RES_OPTIONS", "").split():
        _option(word, options, 0, _ignore)
    config = _with_options(config, options)
    given = environ.get("LOCALDOMAIN")
    if given is not None:
        return replace(config, search=_domains(given.split(), 0, _ignore), searches=True)
    domain = host_name.partition(".")[2].strip(".")
    if config.searches or not domain:
        return config
    return replace(config, search=_domains([domain], 0, _ignore))


def _ignore(_: int, why: str) -> None:
    logger.warning("RES_OPTIONS, LOCALDOMAIN or the host name: %s", why)


def _with_options(config: Config, options: dict[str, int]) -> Config:
    return replace(
        config,
        ndots=options.get("ndots", config.ndots),
        timeout=float(options.get("timeout", config.timeout)),
        attempts=options.get("attempts", config.attempts),
        rotate=config.rotate or "rotate" in options,
        by_tcp=config.by_tcp or "use-vc" in options,
        no_ipv6=config.no_ipv6 or "no-aaaa" in options,
    )


def _domains(words: list[str], number: int, complain: Callable[[int, str], None]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for word in words:
        if word != ".":  # the root, which is tried anyhow
            try:
                found[ascii_name(word).removesuffix(".")] = None
            except WrongName as exc:
                complain(number, str(exc.strerror))
    return tuple(found)


def _option(word: str, options: dict[str, int], number: int, complain: Callable[[int, str], None]) -> None:
    name, _, value = word.partition(":")
    if name in BOUNDS:
        least, most = BOUNDS[name]
        if value.isascii() and value.isdecimal() and len(value) < 10:
            options[name] = min(max(int(value), least), most)
        else:
            complain(number, f"option {word[:100]!r} has no number")
    else:
        options[name] = 1


def candidates(name: str, search: tuple[str, ...], ndots: int) -> list[str]:
    """Return the names to ask for in turn, without trailing dots; the first that exists is the answer."""
    bare = name.removesuffix(".")
    if bare != name:
        return [bare]
    longer = [f"{bare}.{domain}" for domain in search]
    longer = [candidate for candidate in longer if len(candidate) <= LONGEST_NAME]
    return [bare, *longer] if bare.count(".") >= ndots else [*longer, bare]
