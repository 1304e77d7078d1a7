"""Whose certificate it is (RFC 5922): the identities of a SIP domain, and no wildcards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepalive.base.hostname import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping


def identities(certificate: Mapping[str, Any]) -> set[str]:
    """Return the domains and addresses a certificate (as `getpeercert` gives it) stands for.

    SIP URIs without a user come first; only without any of these do DNS names count (RFC 5922 7.1), and the
    common name only in a certificate without alternative names. Addresses count always.
    """
    names: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    uris = [domain for kind, value in names if kind == "URI" and (domain := _domain(value))]
    found = uris or [value for kind, value in names if kind == "DNS"]
    if not names:
        subject = certificate.get("subject", ())
        found = [value for part in subject for kind, value in part if kind == "commonName"]
    found += [value.strip() for kind, value in names if kind == "IP Address"]
    return {canonical(name) for name in found if "*" not in name}


def matches(certificate: Mapping[str, Any] | None, name: str) -> bool:
    """Say whether a certificate stands for a host name or an address; letters of either case are the same."""
    if not certificate:
        return False
    return canonical(name.partition("%")[0]) in identities(certificate)


def _domain(uri: str) -> str:
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme.lower() != "sip" or "@" in rest:
        return ""
    return rest.partition(";")[0].partition("?")[0].partition(":")[0]
