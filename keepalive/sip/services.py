"""What the sockets of one pool share, and what is made of a message that arrives."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from keepalive.base.text import printable

from .core.flows import Flows
from .core.reply import bad_request
from .dispatch import Dispatcher
from .inbox import Inbox
from .source import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from keepalive.transport.reactor import Reactor

    from .config import SipConfig
    from .core.completions import Call
    from .core.flows import Effects
    from .core.head import Head
    from .dispatch import Reader
    from .messages import Packet, Parser
    from .source import Address, Source

logger = logging.getLogger("keepalive.sip")


class Services:
    """What the sockets of one pool share.

    :ivar place: what the pool's socket is bound to
    :ivar flawed: the user's callback for messages that are refused
    """

    def __init__(
        self,
        reactor: Reactor,
        config: SipConfig,
        parser: Parser | None,
        effects: Effects[Any],
        failed: Callable[[Reader], None],
    ) -> None:
        self.reactor = reactor
        self.clock = reactor.clock
        self.config = config
        self.place: Address = UNKNOWN
        self.dispatcher = Dispatcher(reactor, failed)
        self.inbox = Inbox(config.max_inbox, self.dispatcher.postpone)
        self.flows: Flows[Any] = Flows(config, effects)
        self.completions = self.flows.completions
        self.flawed: Callable[[bytes, Source, str], object] | None = None
        self.counts: Counter[str] = Counter()
        self.flaws: Counter[str] = Counter()
        self._parser = parser

    def call(self, calls: Iterable[Call]) -> None:
        """Call back."""
        for callback, error in calls:
            try:
                callback(error)
            except Exception:
                logger.exception("callback %r raised", callback)

    def note_flaw(self, reason: str) -> None:
        """Count something that arrived and was no message."""
        self.flaws[reason] += 1

    def refuse(self, reason: str, header: bytes, raw: bytes, source: Source) -> bytes | None:
        """Drop a message with a flaw and tell of it; return what to answer, if it is a request."""
        self.note_flaw(reason)
        logger.warning("message from %s over %s refused: %s", source, source.proto, reason)
        if self.flawed is not None:
            flawed = self.flawed
            self.completions.call_soon(lambda _: flawed(raw, source, reason), None)
        return bad_request(header, reason)

    def deliver(self, head: Head, source: Source) -> None:
        """Hand a message over, or keep it until somebody takes it."""
        self.counts["received"] += 1
        packet: Packet = head.raw
        if self._parser is not None:
            try:
                packet = self._parser(head)
            except Exception as exc:  # whatever the library makes of a stranger's bytes, they are not lost
                self.note_flaw("unparsed")
                logger.info("message from %s is handed over as bytes: %s", source, printable(str(exc)))
        self.inbox.put(packet, source)
