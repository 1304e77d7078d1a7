"""Messages on their way out, and what became of them: told to who sent them once each, in order. Pure."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keepalive.sip.errors import send_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keepalive.sip.errors import SendError
    from keepalive.transport.runtime import Wakeable

    Call = tuple[Callable[[Any], object], SendError | None]


@dataclass(slots=True, eq=False, repr=False)
class Outgoing:
    """One message on its way out, and who wants to know what became of it."""

    data: bytes
    where: str = ""  # it goes, for people
    callback: Callable[[Any], object] | None = None
    fresh: bool = False  # it goes on a connection of its own
    key: bytes | None = None  # of its transaction, None for a keep-alive
    expects_answer: bool = False  # a response, or for two CR LFs one (RFC 5626 4.4.1)
    pings: int = 0  # so many of ours it is, each of which the peer may answer
    opens_transaction: bool = False
    parked: Wakeable | None = None  # the task that awaits it
    flow: Any = None  # the `Flow` it goes on
    fallback: Callable[[Any], object] | None = None  # sends it elsewhere, if nobody is to be found there
    sent: int = 0  # bytes of it that the kernel (or TLS) has taken
    sent_to: Any = None  # the `Source` it went to, once all of it has
    finished: bool = False  # it is completed
    error: SendError | None = None

    @property
    def observed(self) -> bool:
        """Whether somebody is told what becomes of it."""
        return self.callback is not None or self.parked is not None


class Completions:
    """The completions of one pool's messages.

    :param soon: called to have `due` called, in a turn of its own
    """

    def __init__(self, soon: Callable[[], None]) -> None:
        self._soon = soon
        self._waiting: deque[Call] = deque()
        self._scheduled = False
        self.sent = 0  # messages that are with the kernel
        self.failed: Counter[str] = Counter()  # those that will not be, by reason

    def complete(self, out: Outgoing, error: SendError | None) -> None:
        """Complete a message; a second time is ignored. Who awaits it goes on at once, a callback waits."""
        if out.finished:
            return
        out.finished = True
        out.error = error
        out.flow = None
        if error is None:
            self.sent += 1
        else:
            self.failed[error.reason] += 1
        parked, callback = out.parked, out.callback
        out.parked = out.callback = None
        if parked is not None and not parked.done():
            parked.set_result(None)
        if callback is not None:
            self.call_soon(callback, error)

    def fail(self, out: Outgoing, reason: str, number: int | None, text: str | None = None) -> None:
        """Complete a message with the error for an errno, or a text, or both."""
        self.complete(out, send_error(out.where or "?", reason, number, text))

    def call_soon(self, callback: Callable[[Any], object], error: SendError | None) -> None:
        """Enter a callback behind all that came before."""
        self._waiting.append((callback, error))
        if not self._scheduled:
            self._scheduled = True
            self._soon()

    def due(self) -> Iterator[Call]:
        """Yield the callbacks of this turn; what they lead to has a turn of its own."""
        self._scheduled = False
        for _ in range(len(self._waiting)):
            if self._waiting:
                yield self._waiting.popleft()

    def rest(self) -> Iterator[Call]:
        """Yield all callbacks, and those that they lead to: there will be no further turn."""
        while self._waiting:
            yield self._waiting.popleft()
