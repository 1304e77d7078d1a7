"""How a pool of this kind uses the project's dialling: one attempt for a target."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from keepalive._connectors import TCPConnector, TLSConnector
from keepalive._core._types import Key, Phase
from keepalive._dial import Dial
from keepalive._io._sessions import Sessions
from keepalive._io._tls import TLSLink

from ._identity import matches

if TYPE_CHECKING:
    from keepalive._core._records import Slot
    from keepalive._io._link import Link
    from keepalive.abc import Connector

    from ._engine import Engine
    from ._source import Target


class Dialling:
    """Makes the attempts of one pool.

    :param local: address (and port 0) that connections come from; None for any
    :param client_context: for TLS
    :param check_names: whether certificates must be of whom we call (RFC 5922)
    """

    def __init__(
        self,
        engine: Engine,
        local: tuple[str, int] | None,
        client_context: ssl.SSLContext | None,
        *,
        check_names: bool,
    ) -> None:
        self._engine = engine
        self._local = local
        self._check_names = check_names
        self._sessions = Sessions()
        tcp: Connector = TCPConnector()
        self._connectors = {"tcp": tcp}
        if client_context is not None:
            # Connections live long: little would be gained by resuming, and a peer whose trust has been
            # withdrawn would be let in once more.
            self._connectors["tls"] = TLSConnector(
                client_context, over=tcp, standard_compatible=False, resume=False
            )

    def dial(self, proto: str, target: Target) -> Dial:
        """Return what the attempt works with; it is to be closed at its end."""
        key = Key(proto, target.addr, target.port, proto, target.host, target.port)
        # The dial tells its phase to the pool's record of an attempt; here nobody asks for it.
        record = cast("Slot", SimpleNamespace(host=SimpleNamespace(key=key), phase=Phase.CONNECT))
        engine = self._engine
        return Dial(record, engine.poller, engine.names.resolve, lambda *_: None, self._local, self._sessions)

    async def connect(self, proto: str, dial: Dial) -> Link:
        """Connect, with TLS if it is that, and check whose certificate it is.

        :raises Exception: what `Dial.failure` explains
        """
        link = await self._connectors[proto].connect(dial)
        if proto == "tls" and self._check_names and isinstance(link, TLSLink):
            name = dial.key.for_addr
            if not matches(link.engine.getpeercert(), name):
                dial.phase = Phase.TLS
                raise ssl.SSLCertVerificationError(f"hostname verification failed: not {name}'s certificate")
        return link
