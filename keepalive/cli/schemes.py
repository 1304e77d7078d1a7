"""Whether a URL that failed would have done better with the other scheme."""

from __future__ import annotations

import ssl
from urllib.request import getproxies_environment

import anyio

from keepalive import ConnectionManager, KeepaliveError, TLSConnector, http

PATIENCE = 3.0
"""Seconds for one look."""


async def better_scheme(target: http.ParsedURL) -> str | None:
    """See whether a port speaks TLS where it was not asked for, or does not where it was.

    Nothing of the user's is sent to find out, neither path nor query.

    :return: a line for people; None if there is nothing to say, or a proxy is in the way
    """
    if getproxies_environment():
        return None
    where = f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"
    try:
        with anyio.fail_after(PATIENCE):
            if target.scheme == "http":
                await _shake_hands(target.host, target.port)
                return f"{where} speaks TLS: ask it by https://, not http://."
            await _ask_in_plain(f"http://{where.replace('%', '%25')}/")
            return f"{where} speaks HTTP without TLS: ask it by http://, not https://."
    except (KeepaliveError, OSError):
        return None


async def _shake_hands(host: str, port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False  # whoever it is, it is TLS
    context.verify_mode = ssl.CERT_NONE
    async with ConnectionManager(connectors={"https": TLSConnector(ssl_context=context)}) as manager:
        (await manager.allocate("https", host, port)).discard()


async def _ask_in_plain(url: str) -> None:
    async with ConnectionManager() as manager, http.Client(manager).request("HEAD", url):
        pass
