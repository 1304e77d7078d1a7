"""A certificate authority for tests, and contexts that trust it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Authority:
    """Issue certificates; ``client()`` trusts them, ``server()`` shows one."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def server(
        self,
        *names: str,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        alpn: Sequence[str] = (),
        tickets: int = 2,
    ) -> ssl.SSLContext:
        """Make a server's context of exactly one TLS version, with session tickets if that is 1.3."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        self._ca.issue_cert(*(names or ("localhost", "127.0.0.1", "::1"))).configure_cert(context)
        context.num_tickets = tickets
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def client(self) -> ssl.SSLContext:
        """Make a client's context that trusts this authority and nobody else."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context

    def write(self, folder: Path, *names: str) -> tuple[Path, Path]:
        """Write a certificate and the authority's own into ``folder``, for programs; gives both paths."""
        pair, authority = folder / "server.pem", folder / "authority.pem"
        self._ca.issue_cert(
            *(names or ("localhost", "127.0.0.1"))
        ).private_key_and_cert_chain_pem.write_to_path(pair)
        self._ca.cert_pem.write_to_path(authority)
        return pair, authority
