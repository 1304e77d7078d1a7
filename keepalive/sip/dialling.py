"""How a pool of this kind uses the project's dialling: one attempt for a target."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from keepalive.base.addresses import family_of
from keepalive.base.types import Key, Phase
from keepalive.connect.dial import Dial
from keepalive.connect.sockets import Net
from keepalive.connect.tcp import TCPConnector
from keepalive.connect.tls import TLSConnector
from keepalive.transport.sessions import Sessions
from keepalive.transport.tls import TLSLink

from .identity import matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.connect.connector import Connector
    from keepalive.pool.records import Slot
    from keepalive.transport.link import Link

    from .engine import Engine
    from .source import Target


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
        bound = None if local is None else {int(family_of(local[0])): local}
        self._net = Net(engine.poller, engine.clock, bound)
        self._check_names = check_names
        self._sessions = Sessions()
        tcp: Connector = TCPConnector(engine.config.options)
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
        record = cast(
            "Slot", SimpleNamespace(per_key=SimpleNamespace(key=key), phase=Phase.CONNECT, phase_since=0.0)
        )
        engine = self._engine
        loans = _Loans(engine, target.addr)
        return Dial(record, self._net, loans, engine.names, lambda *_: None, None, self._sessions)

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


class _Loans:
    """The further sockets of one attempt, when a name has several addresses; they count as connections."""

    __slots__ = ("_address", "_engine")

    def __init__(self, engine: Engine, address: str) -> None:
        self._engine = engine
        self._address = address

    def borrow(self, recall: Callable[[], None]) -> bool:
        """Take one more, if there is room; see `Places`."""
        if self._engine.full_for(self._address):
            return False
        self._engine.loans += 1
        return True

    def repay(self) -> None:
        """Give one back."""
        self._engine.loans -= 1
