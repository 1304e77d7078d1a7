"""The `network_stream` extension of a response: the connection below, in httpcore's words."""

from __future__ import annotations

from functools import partial
from socket import MSG_PEEK
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from keepalive import HostName, http

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from socket import socket

    from anyio.abc import ByteStream

    from .library import Library

__all__ = ("NetworkStream", "Snapshot")


class Snapshot:
    """A connection as it was when it was new; it may be closed by now, or serve another request.

    :param response: what it became, if anything
    """

    def __init__(self, attributes: Mapping[Any, Any], response: http.Response | None = None) -> None:
        self._response = response
        self.extra_attributes: Mapping[Any, Callable[[], Any]] = {
            attribute: partial(_itself, value) for attribute, value in attributes.items()
        }

    @property
    def stream(self) -> ByteStream | None:
        """What may be read and written after an upgrade."""
        return None if self._response is None else self._response.stream

    @property
    def holds(self) -> bool:
        """Whether the connection is still the response's."""
        return self._response is not None and self._response.holds


def _itself(value: object) -> object:
    return value


class NetworkStream:
    """What httpcore calls an `AsyncNetworkStream`.

    Reading and writing is for after an upgrade or CONNECT; before, it is there for `get_extra_info`.
    """

    def __init__(self, library: Library, below: http.Response | Snapshot | TLSStream) -> None:
        self._library = library
        self._below = below
        self._stream: ByteStream | None = below if isinstance(below, TLSStream) else below.stream

    def _own(self) -> ByteStream:
        if self._stream is None:
            msg = "the connection speaks HTTP: there was no upgrade, and no tunnel"
            raise RuntimeError(msg)
        return self._stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read some bytes; b"" at the end. Raises the core's ReadTimeout and ReadError."""
        core = self._library.core
        try:
            with anyio.fail_after(timeout):
                return await self._own().receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except TimeoutError as exc:
            raise core.ReadTimeout(str(exc)) from exc
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise core.ReadError(str(exc)) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all bytes. Raises the core's WriteTimeout and WriteError."""
        core = self._library.core
        if not buffer:
            return
        try:
            with anyio.fail_after(timeout):
                await self._own().send(buffer)
        except TimeoutError as exc:
            raise core.WriteTimeout(str(exc)) from exc
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise core.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        """Close the connection, if it is still this response's."""
        if self._stream is not None:
            await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        """Start TLS inside; the stream that is returned takes this one's place."""
        core = self._library.core
        try:
            if server_hostname is not None and not server_hostname.isascii():
                server_hostname = HostName(server_hostname)  # ssl itself has IDNA 2003
            with anyio.fail_after(timeout):
                stream = await TLSStream.wrap(
                    self._own(),
                    server_side=False,
                    hostname=server_hostname,
                    ssl_context=ssl_context,
                    standard_compatible=False,
                )
        except TimeoutError as exc:
            raise core.ConnectTimeout(str(exc)) from exc
        except (anyio.BrokenResourceError, anyio.EndOfStream, OSError) as exc:
            raise core.ConnectError(str(exc)) from exc
        return NetworkStream(self._library, stream)

    def get_extra_info(self, info: str) -> Any:
        """Return "ssl_object", "client_addr", "server_addr", "socket", "is_readable"; None where unknown."""
        if info == "ssl_object":
            return self._get(TLSAttribute.ssl_object)
        if info == "client_addr":
            return self._get(SocketAttribute.local_address)
        if info == "server_addr":
            return self._get(SocketAttribute.remote_address)
        if info == "socket":
            # Not of a connection that serves somebody else by now.
            return self._get(SocketAttribute.raw_socket) if self._holds() else None
        if info == "is_readable":
            sock = self._get(SocketAttribute.raw_socket) if self._holds() else None
            return sock is not None and _readable(sock)
        return None

    def _holds(self) -> bool:
        return isinstance(self._below, TLSStream) or self._below.holds

    def _get(self, attribute: Any) -> Any:
        try:
            found = self._below.extra_attributes.get(attribute)
            return None if found is None else found()
        except OSError:
            return None  # closed by now


def _readable(sock: socket) -> bool:
    """Say whether a read would return at once: bytes, the end, or an error.

    `select.select` cannot be asked: it ends at descriptor 1023.
    """
    try:
        return len(sock.recv(1, MSG_PEEK)) >= 0
    except BlockingIOError:
        return False
    except OSError:
        return True
