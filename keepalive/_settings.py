"""The checks of what users pass in: each refusal names the argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core._types import NEVER, Key
from ._dial import is_literal
from .abc import Connector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._dial import BindAddress


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
    return float(value)


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


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        msg = f"{name} must be a str, not {value!r}"
        raise TypeError(msg)
    if not value:
        msg = f"{name} must not be empty"
        raise ValueError(msg)
    return value


def _host(name: str, value: object, scheme: str) -> str:
    text = _text(name, value)
    if scheme == "unix":
        if "\0" in text[1:]:
            msg = f"{name} must not contain NUL but at its start, not {text!r}"
            raise ValueError(msg)
    elif "\0" in text or any(char.isspace() for char in text):
        msg = f"{name} must not contain NUL or white space, not {text!r}"
        raise ValueError(msg)
    return text


def key(fields: tuple[Any, Any, Any, Any, Any, Any]) -> Key:
    """Check the six parts of a pool key."""
    scheme, for_scheme = _text("scheme", fields[0]), _text("for_scheme", fields[3])
    return Key(
        scheme,
        _host("addr", fields[1], scheme),
        port_number("port", fields[2], least=0 if scheme == "unix" else 1),
        for_scheme,
        _host("for_addr", fields[4], for_scheme),
        port_number("for_port", fields[5], least=0 if for_scheme == "unix" else 1),
    )


def bind_address(value: object) -> BindAddress | None:
    """Check an address, or an (address, port) pair."""
    if value is None:
        return None
    host, port = value if isinstance(value, tuple) and len(value) == 2 else (value, 0)
    if not isinstance(host, str):
        msg = f"bind_address must be an address or an (address, port) pair, not {value!r}"
        raise TypeError(msg)
    if not is_literal(host):
        msg = f"bind_address must be an IPv4 or IPv6 address, not {host!r}"
        raise ValueError(msg)
    return host, port_number("bind_address's port", port, least=0)


def instance(name: str, value: object, kind: type) -> None:
    """Check that something given is of a kind; None is fine."""
    if value is not None and (isinstance(value, type) or not isinstance(value, kind)):
        msg = f"{name} must be a {kind.__name__}, not {value!r}"
        raise TypeError(msg)


def connectors(value: Mapping[str, Connector] | None) -> dict[str, Connector]:
    """Check a mapping of schemes to connectors."""
    if value is None:
        return {}
    if not hasattr(value, "items"):
        msg = f"connectors must map schemes to connectors, not {value!r}"
        raise TypeError(msg)
    for scheme, connector in value.items():
        _text("connectors' scheme", scheme)
        if isinstance(connector, type) or not isinstance(connector, Connector):
            msg = f"connectors[{scheme!r}] must be a Connector, not {connector!r}"
            raise TypeError(msg)
    return dict(value)
