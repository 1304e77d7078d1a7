"""httpx2 or httpx, whichever asks: its classes, by their public names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from typing import Any

from anyio import ClosedResourceError

from keepalive import AllocateError, AllocateTimeout, KeepaliveError, QueueFull, http

__all__ = ("Library", "base_transports", "library_named", "library_of", "some_library")

NAMES = ("httpx2", "httpx")


class Library:
    """One of the two, and its core's exceptions.

    :ivar module: the package itself
    :ivar errors: our exceptions and what becomes of them, the more special ones first
    """

    def __init__(self, name: str) -> None:
        module: Any = importlib.import_module(name)
        self.name = name
        self.module = module
        self.response = module.Response
        self.whole: Any = module.ByteStream
        self.stream: Any = type("ResponseStream", (Content, module.AsyncByteStream), {})
        self.errors: tuple[tuple[type[Exception], type[Exception]], ...] = (
            (QueueFull, module.PoolTimeout),
            (AllocateTimeout, module.ConnectTimeout),
            (AllocateError, module.ConnectError),
            (http.InvalidRequest, module.LocalProtocolError),
            (http.BadAnswer, module.RemoteProtocolError),
            (http.ReadTimeout, module.ReadTimeout),
            (http.WriteTimeout, module.WriteTimeout),
            (http.ReadError, module.ReadError),
            (ClosedResourceError, module.ReadError),
            (KeepaliveError, module.TransportError),  # a manager that was given has been shut down
        )

    def translated(self, exc: Exception, request: object = None) -> Exception | None:
        """Say an exception of ours in the library's words; None for one that is not ours."""
        kind = next((theirs for ours, theirs in self.errors if isinstance(exc, ours)), None)
        if kind is None:
            return None
        function, text = getattr(exc, "function", ""), str(exc)
        if kind is self.module.ConnectTimeout and function == "queue":
            kind = self.module.PoolTimeout
        elif kind is self.module.ConnectError and function == "proxy":
            kind = self.module.ProxyError
        elif kind is self.module.ReadError and isinstance(exc, ClosedResourceError):
            text = "the response, or its connection, was closed"
        translated: Exception = kind(text)
        return translated

    @property
    def core(self) -> Any:
        """httpcore2 or httpcore: the exceptions of network streams."""
        return importlib.import_module("httpcore2" if self.name == "httpx2" else "httpcore")


class Content:
    """The content of a response, as an async iterator that says exceptions in the library's words."""

    def __init__(self, library: Library, response: http.Response, events: Any) -> None:
        self._library = library
        self._response = response
        self._events = events
        self._started = self._ended = False
        self._handled = sys.exception()  # by whoever asks: no reason to cut anything short

    @property
    def _protocol(self) -> str:
        return "http11" if self._response.stream_id is None else "http2"

    def _closed_info(self) -> dict[str, Any]:
        number = self._response.stream_id
        return {} if number is None else {"stream_id": number}

    def __aiter__(self) -> Any:
        """Return itself: content comes once."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        if self._events is not None and not self._started:
            self._started = True
            await self._events(f"{self._protocol}.receive_response_body.started", self._events.info)
        try:
            return await self._response.__anext__()
        except StopAsyncIteration:
            if self._events is not None and not self._ended:
                self._ended = True
                await self._events(f"{self._protocol}.receive_response_body.complete", {"return_value": None})
            raise
        except Exception as exc:
            translated = self._library.translated(exc)
            if self._events is not None:
                told = {"exception": translated or exc}
                await self._events(f"{self._protocol}.receive_response_body.failed", told)
            await self.aclose()
            if translated is None:
                raise
            raise translated from exc

    async def aclose(self) -> None:
        """End the response; on a normal end, once the request is out (see `http.Exchange`)."""
        events, self._events = self._events, None
        try:
            if events is not None:
                await events(f"{self._protocol}.response_closed.started", self._closed_info())
            if self._response.uploading and sys.exception() is self._handled:
                await self._response.finish()
        except http.HTTPError as exc:
            raise self._library.translated(exc) or exc from exc
        finally:
            self._response.close()
        if events is not None:
            await events(f"{self._protocol}.response_closed.complete", {"return_value": None})


_by_kind: dict[type, Library] = {}


@cache
def library_named(name: str) -> Library:
    """Return a library by its name; ImportError if it is not installed."""
    return Library(name)


def library_of(thing: object) -> Library:
    """Return the library that an object, or the class it is derived from, comes from."""
    known = _by_kind.get(type(thing))
    if known is not None:
        return known
    for kind in type(thing).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in NAMES:
            found = _by_kind[type(thing)] = library_named(name)
            return found
    msg = f"{thing!r} is an object of neither httpx2 nor httpx"
    raise TypeError(msg)


def base_transports() -> tuple[type, ...]:
    """Return the `AsyncBaseTransport` of each library that is installed. ImportError if none is.

    One transport may serve both, and which one it will serve is not known when it is made.
    """
    found = [name for name in NAMES if importlib.util.find_spec(name) is not None]
    if not found:
        msg = "keepalive.httpx needs httpx2 or httpx; install one: pip install 'keepalive-manager[httpx]'"
        raise ImportError(msg)
    # httpx may be httpx2 by another name: `httpx2.alias_httpx`.
    return tuple(dict.fromkeys(importlib.import_module(name).AsyncBaseTransport for name in found))


def some_library() -> Library:
    """Return the library that serves where nothing says which."""
    return library_named(next(name for name in NAMES if name in sys.modules))
