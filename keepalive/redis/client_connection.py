"""redis-py's connection object, on a byte stream of the manager's."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import hiredis
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute
from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from keepalive import AllocateError, AllocateTimeout, Connection, KeepaliveError

from .client_parser import INCOMPLETE, Parser

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from redis.auth.token import TokenInterface

__all__ = ("ClientConnection",)

_SMALL = 4096
"""Bytes that the kernel takes at once where nothing sent before is waiting."""
_READ_SIZE = 65536
_PLAIN = frozenset({str, bytes})


class Packed(list[bytes]):
    """Commands in the protocol's form, and how many replies they get."""

    __slots__ = ("replies",)

    def __init__(self, pieces: Iterable[bytes], replies: int) -> None:
        super().__init__(pieces)
        self.replies = replies


class ClientConnection(AbstractConnection):
    """redis-py's side of one connection: its parser, what was set up, which replies are outstanding.

    It stays with the byte stream from user to user. Where redis-py connects again after an error, it gets
    a new stream from the manager.

    :param allocate: gets a connection of the manager; true for one that nobody had before
    :param where: what it connects to, for people
    :param options: redis-py's, as for its own connections
    """

    _parser: Parser

    def __init__(
        self, *, allocate: Callable[[bool], Awaitable[Connection]], where: str, **options: Any
    ) -> None:
        super().__init__(parser_class=Parser, **options)
        self._allocate = allocate
        self._where = where
        self._given: Connection | KeepaliveError | None = None
        self._conn: Connection | None = None
        self._outstanding = 0
        self._unsure = False  # whether anything went past the count
        self._expired = False
        self._has_new_token = False
        self._to_be_closed = False
        encoder = self.encoder
        self._packs_plain = (encoder.encoding, encoder.encoding_errors) == ("utf-8", "strict")

    # -- from user to user --------------------------------------------------------------------------

    async def begin(self, given: Connection | KeepaliveError) -> None:
        """Set up what was allocated, or begin with the failure to do so; connects by redis-py's retries."""
        self._given = given
        try:
            await self.connect()
        except BaseException:
            await self.disconnect()
            raise

    async def resume(self, conn: Connection) -> None:
        """Go on with the stream that this had before, in the hands of its next user."""
        self._conn = conn
        if self._has_new_token:
            self._has_new_token = False
            try:
                await self.re_auth()
            except BaseException:
                await self.disconnect()
                raise

    def give_back(self) -> None:
        """Give the stream back to the manager, and stay with it.

        It is closed instead if a reply is outstanding, which the next user would take for his.
        """
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if self._outstanding or self._unsure or self._to_be_closed or self._parser.unread():
            conn.discard()
            return
        try:
            conn.state = self
        except ClosedResourceError:
            return  # the manager has closed it meanwhile
        conn.release()

    # -- its life, for redis-py ---------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether it has a stream."""
        return self._conn is not None

    async def _connect(self) -> None:
        given, self._given = self._given, None
        if given is None:
            try:
                given = await self._allocate(True)
            except KeepaliveError as exc:
                given = exc
        if isinstance(given, KeepaliveError):
            raise _as_oserror(given) from given
        self._conn = given
        self._outstanding, self._unsure = 0, False

    def mark_for_reconnect(self) -> None:
        """Have the stream closed when this is given back."""
        self._to_be_closed = True

    def should_reconnect(self) -> bool:
        """Whether the stream is to be closed."""
        return self._to_be_closed

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Close the stream for good. Does not switch tasks."""
        self._to_be_closed = False
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.discard()

    def _close(self) -> None:
        # redis-py calls this while objects are being collected, too: the stream's own finalizer knows how.
        self._conn = self._given = None

    def __del__(self, _warnings: Any = None) -> None:
        """Leave it to the stream's own finalizer, which may come from any thread."""

    def getpeername(self) -> str | None:
        """Return the peer's address."""
        peer = None if self._conn is None else self._conn.extra(SocketAttribute.remote_address, None)
        return str(peer[0]) if isinstance(peer, tuple) else None

    def repr_pieces(self) -> list[tuple[str, str | int]]:
        """Return what its repr shows."""
        return [("at", self._where), ("db", self.db)]

    def _host_error(self) -> str:
        return self._where

    def set_re_auth_token(self, token: TokenInterface) -> None:
        """Note a token to authenticate with before the next user has this."""
        self._has_new_token = True
        super().set_re_auth_token(token)

    # -- commands -----------------------------------------------------------------------------------

    def pack_command(self, *args: Any) -> list[bytes]:
        """Bring a command into the protocol's form."""
        return Packed(super().pack_command(*args), 1)

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Bring commands into the protocol's form."""
        commands = list(commands)
        return Packed(super().pack_commands(commands), len(commands))

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command; within `socket_timeout`."""
        conn = self._conn
        if (
            conn is None
            or self._outstanding
            or self.health_check_interval
            or not self._packs_plain
            or not _PLAIN.issuperset(map(type, args))
            or not args[0].isalpha()
        ):
            await self.send_packed_command(
                self.pack_command(*args), check_health=kwargs.get("check_health", True)
            )
            return
        data = hiredis.pack_command(args)
        self._outstanding = 1
        await self._send(conn, data, None if len(data) <= _SMALL else self.socket_timeout)

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send commands; within `socket_timeout`."""
        if self._conn is None:
            await self.connect_check_health(check_health=False)
        if check_health and self.health_check_interval:
            await self.check_health()
        conn = self._conn
        assert conn is not None, "it is connected"
        if isinstance(command, Packed):
            self._outstanding += command.replies
        else:
            self._unsure = True
        await self._send(conn, _joined(command), self.socket_timeout)

    async def _send(self, conn: Connection, data: bytes, seconds: float | None) -> None:
        try:
            if seconds:
                async with asyncio.timeout(seconds):
                    await conn.send(data)
            else:
                await conn.send(data)
        except TimeoutError:
            await self.disconnect()
            raise exceptions.TimeoutError("Timeout writing to socket") from None
        except (BrokenResourceError, ClosedResourceError) as exc:
            await self.disconnect()
            told = f"Error while writing to {self._where}: {_reason(exc)}"
            raise exceptions.ConnectionError(told) from exc
        except BaseException:
            await self.disconnect()
            raise

    async def can_read(self) -> bool:
        """Say whether something was received that nobody has read."""
        return self._parser.unread()

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,
        *,
        disconnect_on_error: bool = True,
        push_request: bool | None = False,
    ) -> Any:
        """Read the next reply.

        :param timeout: seconds after which None is returned; by default `socket_timeout`, which raises
        """
        if timeout is not None or push_request or not disconnect_on_error:
            self._unsure = True  # a subscriber's ways: what it reads is no reply, and it may stop halfway
        waits = self.socket_timeout if timeout is None else timeout
        try:
            if timeout is None and disconnect_on_error and waits:
                reply = await self._reply_or_close(disable_decoding, push_request, waits)
            else:
                async with asyncio.timeout(None if waits == math.inf else waits):
                    reply = await self._reply(disable_decoding, push_request)
        except TimeoutError:
            if timeout is not None:
                return None
            if disconnect_on_error:
                await self.disconnect()
            raise exceptions.TimeoutError(f"Timeout reading from {self._where}") from None
        except BaseException:
            if disconnect_on_error:
                await self.disconnect()
            raise
        self._outstanding -= 1
        if self.health_check_interval:
            self.next_health_check = asyncio.get_running_loop().time() + self.health_check_interval
        if isinstance(reply, exceptions.ResponseError):
            raise reply
        return reply

    async def _reply_or_close(self, disable_decoding: bool, push_request: bool | None, seconds: float) -> Any:
        """Read a reply, or close the stream after so many seconds: one plain timer, for the hot path."""
        self._expired = False
        timer = asyncio.get_running_loop().call_later(seconds, self._expire)
        try:
            return await self._reply(disable_decoding, push_request)
        except exceptions.ConnectionError:
            if self._expired:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()

    def _expire(self) -> None:
        if self._conn is not None:
            self._expired = True
            self._conn.discard()

    async def _reply(self, disable_decoding: bool, push_request: bool | None) -> Any:
        parser, conn = self._parser, self._conn
        take = parser.take
        while True:
            reply = take(False) if disable_decoding else take()
            if reply is not INCOMPLETE:
                if type(reply) is bytes:
                    return reply
                reply = await parser.seen(reply, push_request=push_request)
                if reply is not INCOMPLETE:
                    return reply
                continue
            if conn is None:
                raise exceptions.ConnectionError("Connection closed by server.")
            try:
                parser.feed(await conn.receive(_READ_SIZE))
            except EndOfStream:
                raise exceptions.ConnectionError("Connection closed by server.") from None
            except (BrokenResourceError, ClosedResourceError) as exc:
                raise exceptions.ConnectionError(
                    f"Error while reading from {self._where}: {_reason(exc)}"
                ) from exc


def _joined(command: bytes | str | Iterable[bytes]) -> bytes:
    if isinstance(command, str):
        return command.encode()
    return command if isinstance(command, bytes) else b"".join(command)


def _reason(exc: Exception) -> str:
    return str(exc.__cause__ or exc) or "the connection was closed"


def _as_oserror(exc: KeepaliveError) -> OSError:
    """Say it so that redis-py makes a TimeoutError of its own of what took too long to connect.

    Everything else, the wait for a place included, becomes its ConnectionError.
    """
    if isinstance(exc, AllocateTimeout) and exc.function != "queue":
        return exc
    return OSError(exc.error_str if isinstance(exc, AllocateError) else str(exc))
