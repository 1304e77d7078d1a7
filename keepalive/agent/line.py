"""The line from a borrower to its agent: the greeting, and new calls when it has been lost."""

from __future__ import annotations

import os
import random
import socket
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from keepalive.base.types import NEVER

from . import wire
from .channel import Channel
from .core.desk import VERSIONS
from .core.frames import TooLong

if TYPE_CHECKING:
    from keepalive.transport.reactor import Reactor

    from .wire import FromAgent, FromClient

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
"""Seconds between two calls, each at random up to a half less: not all borrowers shall call at once."""


class LineState(Enum):
    """How the line is."""

    DOWN = auto()
    GREETING = auto()
    UP = auto()
    ENDED = auto()


class Owner(Protocol):
    """Who is told of the line."""

    def line_up(self) -> None:
        """Note that the agent listens."""

    def line_lost(self) -> None:
        """Note that there is no agent any more; `Line.why` says why."""

    def heard(self, message: FromAgent, channel: Channel) -> None:
        """Take a message of the agent."""


class Line:
    """One end of the channel to an agent.

    :ivar session: grows with each agent that is met: what was lent by one is nothing to the next
    :ivar why: what has become of the last call
    :ivar refused: the agent does not want this process
    :ivar busy: many requests wait: what is said may wait for the end of the loop's turn
    :ivar due: when to call again
    :ivar patience: seconds after which the agent takes a silent borrower for dead
    """

    def __init__(self, path: str, reactor: Reactor, owner: Owner, hello: wire.Hello) -> None:
        self._path = path
        self._reactor = reactor
        self._owner = owner
        self._hello = hello
        self._pause = FIRST_PAUSE
        self.channel: Channel | None = None
        self.state = LineState.DOWN
        self.session = 0
        self.why = "not called yet"
        self.refused = False
        self.busy = False
        self.due = NEVER
        self.patience = NEVER
        self.pool = ""

    def call(self) -> None:
        """Call the agent. A plain call: a Unix socket is connected at once or not at all."""
        self.due = NEVER
        sock = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
            sock.connect(path)
        except OSError as exc:
            if sock is not None:
                sock.close()
            self._failed(f"{self._path}: {os.strerror(exc.errno or 0)}")
            return
        self.channel = Channel(sock, self._reactor.poller, wire.MOST_ANSWERED)
        self.state = LineState.GREETING
        self.channel.post(wire.packed(self._hello))

    def post(self, message: FromClient) -> None:
        """Say something, if there is somebody to hear it; with what else this turn of the loop has to say, if
        much goes on anyway.
        """  # noqa: D205  # one sentence that does not fit a line
        channel = self.channel
        if channel is None:
            return
        if self.busy and not channel.corked:
            channel.corked = True
            self._reactor.call_soon_threadsafe(self._uncork)
        channel.post(wire.packed(message))

    def _uncork(self) -> None:
        if self.channel is not None:
            self.channel.flush()

    def read(self) -> None:
        """Take what the agent says."""
        channel = self.channel
        while channel is not None and channel.readable and not channel.closed:
            try:
                messages = channel.take(descriptors=True)
            except (OSError, TooLong) as exc:
                self._failed(str(exc))
                return
            if messages is None:
                self._failed(self.why if self.refused else "it has closed the line")
                return
            for raw in messages:
                try:
                    self._take(wire.of_agent(raw), channel)
                except wire.BadMessage as exc:
                    self._failed(f"it does not make sense: {exc}")
                if self.channel is not channel:
                    return

    def _take(self, message: FromAgent, channel: Channel) -> None:
        if isinstance(message, wire.Refusal):
            self.refused = True
            self._failed(f"it refuses: {message.text}")
        elif self.state is LineState.UP:
            if isinstance(message, wire.Descriptors):
                channel.expect(message.count)
            else:
                self._owner.heard(message, channel)
        elif isinstance(message, wire.Welcome) and message.version in VERSIONS:
            self.state = LineState.UP
            self.refused = False
            self.session += 1
            self.patience = message.patience
            self.pool = message.pool
            self._pause = FIRST_PAUSE
            self._owner.line_up()
        else:
            self._failed("it does not greet")

    def _failed(self, why: str) -> None:
        if self.state is LineState.ENDED:
            return
        self._close()
        self.state = LineState.DOWN
        self.why = why
        self.due = self._reactor.clock() + self._pause * random.uniform(0.5, 1.0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._owner.line_lost()

    def _close(self) -> None:
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    def end(self) -> None:
        """Hang up for good."""
        self.state = LineState.ENDED
        self._uncork()
        self.why = "this manager was shut down"
        self.due = NEVER
        self._close()
