"""TLS contexts for both roles, out of one certificate."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import SipTLS

_VERIFY = {0: ssl.CERT_NONE, -1: ssl.CERT_OPTIONAL, 1: ssl.CERT_REQUIRED}


def server_context(tls: SipTLS) -> ssl.SSLContext | None:
    """Make the context for those who call us; None if there is no certificate to show them.

    :raises OSError: a file is missing or does not hold what it should
    """
    if tls.server_context is not None:
        return tls.server_context
    if tls.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key, tls.password)
    context.verify_mode = _VERIFY[tls.verify_client]
    if tls.verify_client:
        if tls.ca is None:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        else:
            context.load_verify_locations(tls.ca)
    return context


def client_context(tls: SipTLS) -> ssl.SSLContext:
    """Make the context for those whom we call. Names are checked by `core.identity`, not by the context.

    :raises OSError: a file is missing or does not hold what it should
    """
    if tls.client_context is not None:
        return tls.client_context
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = False
    if not tls.verify_server:
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key, tls.password)
    return context
