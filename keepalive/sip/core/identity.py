"""Whose certificate it is (RFC 5922): the identities of a SIP domain, and no wildcards."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from keepalive.base.hostname import one_spelling

if TYPE_CHECKING:
    from collections.abc import Mapping


def identities(certificate: Mapping[str, Any]) -> set[str]:
    """Return the domains and addresses a certificate (as `getpeercert` gives it) stands for.

    SIP URIs without a user come first; only without any of these do DNS names count (RFC 5922 7.1), and the
    common name only in a certificate without alternative names. Addresses count always.
    """
    names: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    uris = {_domain(value) for kind, value in names if kind == "URI"} - {""}
    found = uris or {_plain(value) for kind, value in names if kind == "DNS"}
    if not names:
        found = {
            _plain(value)
            for part in certificate.get("subject", ())
            for kind, value in part
            if kind == "commonName"
        }
    for kind, value in names:
        if kind == "IP Address":
            with suppress(ValueError):
                found.add(_plain(str(ipaddress.ip_address(value.strip()))))
    return {name for name in found if "*" not in name}


def matches(certificate: Mapping[str, Any] | None, name: str) -> bool:
    """Say whether a certificate stands for a host name or an address; letters of either case are the same."""
    if not certificate:
        return False
    return _plain(name) in identities(certificate)


def _domain(uri: str) -> str:
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme.lower() != "sip" or "@" in rest:
        return ""
    return _plain(rest.partition(";")[0].partition("?")[0].partition(":")[0])


def _plain(name: str) -> str:
    with suppress(ValueError):
        address = ipaddress.ip_address(name.partition("%")[0])
        return str(getattr(address, "ipv4_mapped", None) or address)
    return one_spelling(name).lower().rstrip(".")
