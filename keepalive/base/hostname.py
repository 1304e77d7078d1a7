"""What a host name may be, and how it goes over the wire: ASCII, lower case, A-labels (IDNA 2008).

Python's own codec "idna", which `ssl` and `socket` use for what is not ASCII, is of IDNA 2003: it makes
another name of some, "strasse" of "straße" for one. So nothing but ASCII is ever handed to them.
"""

from __future__ import annotations

import socket
from typing import Self

from .addresses import is_literal, unmapped

LONGEST_LABEL = 63
LONGEST_NAME = 253  # RFC 1035 2.3.4: 255 octets as sent, dots and root not counted twice

NOT_IN_NAMES = frozenset(':/\\[]@%?#"<>')
"""Found in URLs, authorities and half-written addresses. DNS itself would carry any octet (RFC 2181 11)."""

LONGEST_TO_CONVERT = 1024  # characters; the conversion takes time that grows faster than its input


class WrongName(socket.gaierror, ValueError):
    """A text that cannot be a host name."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(socket.EAI_NONAME, f"addr {host[:300]!r} is no host name: {why}")


class HostName(str):
    """A host name as it goes over the wire: in DNS, Host fields, TLS and to proxies.

    ``HostName("Straße.test") == "xn--strae-oqa.test"``: ASCII, lower case, A-labels by IDNA 2008 (RFC 5891,
    with the mapping of UTS 46). A trailing dot stays. What comes out may be an IPv4 address.

    :raises ValueError: it is too long, has an empty or too long label, or is no name by IDNA 2008
    """

    __slots__ = ()

    def __new__(cls, host: str) -> Self:
        """Convert and check."""
        return super().__new__(cls, ascii_name(host))


def tls_name(name: str) -> str:
    """Bring a server name into the form that TLS sends and checks: no zone, no trailing dot.

    :raises WrongName: it is no name by IDNA 2008
    """
    if not name.isascii():
        name = ascii_name(name)
    if is_literal(name):
        return name.partition("%")[0]
    return name.rstrip(".")


def one_spelling(host: str) -> str:
    """Return the form in which a host is compared: A-labels, or as it is where it cannot have any."""
    if host.isascii():
        return host
    try:
        return ascii_name(host)
    except WrongName:
        return host  # whoever connects to it hears why not


def canonical(host: str) -> str:
    """Bring a host into the form in which hosts are compared: the kernel's for addresses, else lower case."""
    if ":" not in host:
        return one_spelling(host).lower().rstrip(".")
    bare, percent, zone = host.partition("%")
    try:
        address = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, bare))
    except (OSError, ValueError):
        return host
    return unmapped(address + percent + zone)


def ascii_name(host: str) -> str:
    """Return a host name as it is asked for; a trailing dot stays. It may turn out to be an address.

    :raises WrongName: it is too long, has an empty or too long label, or is no name by IDNA 2008
    """
    name = host.lower() if host.isascii() else _converted(host)
    bare = name.removesuffix(".")
    if not bare:
        raise WrongName(host, "it is empty")
    if len(bare) > LONGEST_NAME:
        raise WrongName(host, f"{len(bare)} characters, more than {LONGEST_NAME} (RFC 1035)")
    for char in bare:
        if char in NOT_IN_NAMES or not "!" <= char <= "~":
            raise WrongName(host, f"{char!r} cannot be in one")
    for label in bare.split("."):
        if not label:
            raise WrongName(host, "a label is empty")
        if len(label) > LONGEST_LABEL:
            raise WrongName(host, f"a label of {len(label)} characters, more than {LONGEST_LABEL} (RFC 1035)")
        if label.startswith("xn--"):
            _check_punycode(host, label)
    return name


def _converted(host: str) -> str:
    import idna  # only here: its tables are big, and most names are ASCII

    if len(host) > LONGEST_TO_CONVERT:
        raise WrongName(host, f"{len(host)} characters")
    try:
        return idna.encode(host, uts46=True).decode().lower()
    except (idna.IDNAError, UnicodeError) as exc:
        raise WrongName(host, f"{exc} (IDNA 2008)") from exc


def _check_punycode(host: str, label: str) -> None:
    # Not checked by IDNA 2008: names registered under older rules exist, and can be reached by A-label.
    try:
        label[4:].encode().decode("punycode")
    except UnicodeError:
        raise WrongName(host, f"{label!r} is no A-label (RFC 5891)") from None
