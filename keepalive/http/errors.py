"""What can go wrong in an exchange, the connection itself apart."""

from __future__ import annotations

from keepalive import KeepaliveError, printable

__all__ = (
    "BadAnswer",
    "HTTPError",
    "HTTPTimeout",
    "InvalidRequest",
    "InvalidURL",
    "NoAnswer",
    "ReadError",
    "ReadTimeout",
    "Refused",
    "WriteTimeout",
)


class HTTPError(KeepaliveError):
    """The root of the errors of an exchange. No connection for it is an `AllocateError` and so on."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))  # a server has a part in most of them


class InvalidRequest(HTTPError, ValueError):
    """The request cannot be said in HTTP/1.1, or its content does not keep to its announced length.

    Raised before anything is sent, unless it is streamed content that turns out to be too short or too long.
    """


class InvalidURL(InvalidRequest):
    """The URL cannot be asked for; the text says why."""


class BadAnswer(HTTPError):
    """The answer is not HTTP/1.1, breaks its rules or a limit, or is cut short."""


class NoAnswer(BadAnswer):
    """The peer ended the connection before the first byte of an answer.

    On a reused connection that is how a server's own keep-alive limit shows when it strikes just now.
    """


class Refused(BadAnswer):
    """The peer did not begin with the request (RFC 9113 8.7); whatever its method, it may be sent again.

    It has been, where its content was at hand.
    """


class ReadError(HTTPError):
    """The connection was reset or failed before the answer was complete."""


class HTTPTimeout(HTTPError, TimeoutError):
    """A part of the exchange took longer than allowed."""


class ReadTimeout(HTTPTimeout):
    """Nothing came from the peer in time."""


class WriteTimeout(HTTPTimeout):
    """The peer did not take the request in time."""
