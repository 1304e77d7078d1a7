"""The checks of what users pass in: each refusal names the argument."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .addresses import family_of, is_literal
from .hostname import one_spelling
from .types import NEVER, Key

if TYPE_CHECKING:
    from .addresses import BindAddresses


def seconds(name: str, value: object, *, none: float | None = NEVER, any_sign: bool = False) -> float:
    """Check a number of seconds; `None` becomes `none` where that is a number."""
    if value is None and none is not None:
        return none
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{name} must be a number of seconds{'' if none is None else ' or None'}, not {value!r}"
        raise TypeError(msg)
    if value != value or (value < 0 and not any_sign):
        msg = f"{name} must {'be a number' if any_sign else 'not be negative or NaN'}, not {value!r}"
        raise ValueError(msg)
    try:
        return float(value)
    except OverflowError:
        msg = f"{name} must be a number of seconds that a float can hold"
        raise ValueError(msg) from None


def positive_seconds(name: str, value: object) -> float:
    """Check a number of seconds that may not be zero, or None for no limit."""
    checked = seconds(name, value)
    if checked == 0:
        msg = f"{name} must be more than zero, not {value!r}"
        raise ValueError(msg)
    return checked


def count(name: str, value: object, *, least: int) -> float:
    """Check a whole number, or None for no limit."""
    if value is None or value == NEVER:
        return NEVER
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number or None, not {value!r}"
        raise TypeError(msg)
    if value < least:
        msg = f"{name} must be at least {least}, not {value!r}"
        raise ValueError(msg)
    return value


def whole(name: str, value: object, *, least: int, most: int) -> int:
    """Check a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a whole number, not {value!r}"
        raise TypeError(msg)
    if not least <= value <= most:
        msg = f"{name} must be from {least} to {most}, not {value!r}"
        raise ValueError(msg)
    return value


def part_of_one(name: str, value: object) -> None:
    """Check a number from 0 to 1, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{name} must be a number or None, not {value!r}"
        raise TypeError(msg)
    if not 0 <= value <= 1:
        msg = f"{name} must be from 0 to 1, not {value!r}"
        raise ValueError(msg)


def flag(name: str, value: object) -> bool:
    """Check a flag."""
    if not isinstance(value, bool):
        msg = f"{name} must be True or False, not {value!r}"
        raise TypeError(msg)
    return value


def issued(name: str, value: object, last: int) -> None:
    """Check the number of a request."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= last:
        msg = f"{name} {value!r} was never issued by this manager"
        raise ValueError(msg)


def port_number(name: str, value: object, *, least: int) -> int:
    """Check a port."""
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{name} must be a port number, not {value!r}"
        raise TypeError(msg)
    if not least <= value <= 65535:
        msg = f"{name} must be from {least} to 65535, not {value!r}"
        raise ValueError(msg)
    return value


def text(name: str, value: object) -> str:
    """Check a text that may not be empty."""
    if not isinstance(value, str):
        msg = f"{name} must be a str, not {value!r}"
        raise TypeError(msg)
    if not value:
        msg = f"{name} must not be empty"
        raise ValueError(msg)
    return value


def _host(name: str, value: object, scheme: str) -> str:
    host = text(name, value)
    if scheme == "unix":
        if "\0" in host[1:]:
            msg = f"{name} must not contain NUL but at its start, not {host!r}"
            raise ValueError(msg)
    elif "\0" in host or any(char.isspace() for char in host):
        msg = f"{name} must not contain NUL or white space, not {host!r}"
        raise ValueError(msg)
    return host if scheme == "unix" else one_spelling(host)


def key(scheme: object, addr: object, port: object, *behind: object) -> Key:
    """Check the six parts of a pool key; those behind a proxy that are None are like the first three."""
    for_scheme, for_addr, for_port = (
        given if own is None else own for given, own in zip((scheme, addr, port), behind, strict=True)
    )
    return Key(
        scheme := text("scheme", scheme),
        _host("addr", addr, scheme),
        port_number("port", port, least=0 if scheme == "unix" else 1),
        for_scheme := text("for_scheme", for_scheme),
        _host("for_addr", for_addr, for_scheme),
        port_number("for_port", for_port, least=0 if for_scheme == "unix" else 1),
    )


def part(name: str, value: object) -> str | int:
    """Check one part of a pool key."""
    if name.endswith("port"):
        return port_number(name, value, least=0)
    given = text(name, value)
    is_path = given.startswith(("/", "\0"))  # a Unix socket's, which is as it is
    return one_spelling(given) if name.endswith("addr") and not is_path else given


def bind_address(value: object) -> BindAddresses | None:
    """Check an address, an (address, port) pair, or two of these: one of IPv4 and one of IPv6."""
    if value is None:
        return None
    second = value[1] if isinstance(value, tuple) and len(value) == 2 else None
    if not isinstance(second, tuple) and not (isinstance(second, str) and is_literal(second)):
        family, bound = _bind_address(value)
        return {family: bound}
    assert isinstance(value, tuple), "it has two parts"
    both = dict(_bind_address(one) for one in value)
    if len(both) != 2:
        msg = f"bind_address may be two addresses only if one is of IPv4 and one of IPv6, not {value!r}"
        raise ValueError(msg)
    return both


def _bind_address(value: object) -> tuple[int, tuple[str, int]]:
    host, port = value if isinstance(value, tuple) and len(value) == 2 else (value, 0)
    if not isinstance(host, str):
        msg = f"bind_address must be an address or an (address, port) pair, or two of these, not {value!r}"
        raise TypeError(msg)
    if not is_literal(host):
        msg = f"bind_address must be an IPv4 or IPv6 address, not {host!r}"
        raise ValueError(msg)
    return family_of(host), (host, port_number("bind_address's port", port, least=0))


def socket_options(name: str, value: object) -> None:
    """Check a sequence of (level, name, value). Whether the kernel knows them shows when connecting."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        msg = f"{name} must be a sequence of (level, name, value), not {value!r}"
        raise TypeError(msg)
    for option in value:
        fits = isinstance(option, tuple) and len(option) == 3
        if not fits or not all(isinstance(part, int) for part in option[:2]):
            msg = f"an option in {name} must be a (level, name, value) of whole numbers, not {option!r}"
            raise TypeError(msg)
        if not isinstance(option[2], (int, bytes)):
            msg = f"the value of an option in {name} must be an int or bytes, not {option[2]!r}"
            raise TypeError(msg)
        if any(isinstance(part, int) and not -(2**31) <= part < 2**31 for part in option):
            msg = f"an option in {name} must hold numbers of 32 bits, not {option!r}"
            raise ValueError(msg)


def addresses(host: str, value: object) -> tuple[str, ...]:
    """Check what a host name stands for: one address, or several."""
    found = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    for address in found:
        if not isinstance(address, str):
            msg = f"the addresses of {host!r} must be str, not {address!r}"
            raise TypeError(msg)
        if not is_literal(address):
            msg = f"the addresses of {host!r} must be IPv4 or IPv6 ones, not {address!r}"
            raise ValueError(msg)
    return found


def instance(name: str, value: object, kind: type, *, none: bool = True) -> None:
    """Check that something given is of a kind; None may be fine."""
    if not (none and value is None) and (isinstance(value, type) or not isinstance(value, kind)):
        msg = f"{name} must be a {kind.__name__}, not {value!r}"
        raise TypeError(msg)


def callback(name: str, value: object, *, none: bool = True) -> None:
    """Check something that will be called; None may be fine."""
    if not callable(value) and not (none and value is None):
        msg = f"{name} must be callable, not {value!r}"
        raise TypeError(msg)


def client_context(name: str, value: object, *, none: bool = True) -> None:
    """Check a TLS context for clients; None may be fine."""
    instance(name, value, ssl.SSLContext, none=none)
    if isinstance(value, ssl.SSLContext) and value.protocol is ssl.PROTOCOL_TLS_SERVER:
        msg = f"{name} must be a context for clients, not {value!r}, which is for servers"
        raise ValueError(msg)


def protocols(name: str, value: object) -> list[str] | None:
    """Check a sequence of ALPN protocol names, each of 1 to 255 ASCII characters (RFC 7301 3.1)."""
    if value is None:
        return None
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        msg = f"{name} must be a sequence of protocol names, not {value!r}"
        raise TypeError(msg)
    found = [text(f"a protocol in {name}", item) for item in value]
    for item in found:
        if not item.isascii() or len(item) > 255:
            msg = f"a protocol in {name} must be of 1 to 255 ASCII characters, not {item!r}"
            raise ValueError(msg)
    return found
