"""A lean HTTP exchange over the connections of a manager.

    async with ConnectionManager() as mgr:
        client = http.Client(mgr, timeout=10)
        async with client.request("GET", "http://localhost:8080/") as response:
            print(response.status, await response.read())

HTTP/1.1, and HTTP/2 where a manager's life cycle is `HTTP2Lifecycle`; no cookies, redirects or decoding.
`keepalive.httpx` puts it under a whole client.
"""

from __future__ import annotations

from .client import Client, Exchange, Place, request
from .environment import EnvironmentProxies
from .errors import (
    BadAnswer,
    HTTPError,
    HTTPTimeout,
    InvalidRequest,
    InvalidURL,
    NoAnswer,
    ReadError,
    ReadTimeout,
    Refused,
    WriteTimeout,
)
from .head import Headers, HeadLimits
from .request import Message, compose
from .response import RawStream, Response
from .timeout import Timeout
from .url import ParsedURL, parse_url

TYPE_CHECKING = False  # type checkers take it as true
if TYPE_CHECKING:
    from .http2.lifecycle import HTTP2Lifecycle
del TYPE_CHECKING

__all__ = (
    "BadAnswer",
    "Client",
    "EnvironmentProxies",
    "Exchange",
    "HTTP2Lifecycle",
    "HTTPError",
    "HTTPTimeout",
    "HeadLimits",
    "Headers",
    "InvalidRequest",
    "InvalidURL",
    "Message",
    "NoAnswer",
    "ParsedURL",
    "Place",
    "RawStream",
    "ReadError",
    "ReadTimeout",
    "Refused",
    "Response",
    "Timeout",
    "WriteTimeout",
    "compose",
    "parse_url",
    "request",
)


def __getattr__(name: str) -> object:
    """Load what needs a further library when it is first asked for (PEP 562)."""
    if name != "HTTP2Lifecycle":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg, name=name)
    try:
        import h2  # noqa: F401  # to see whether it is there
    except ModuleNotFoundError as exc:
        if exc.name != "h2":
            raise
        msg = "http.HTTP2Lifecycle needs h2; install it with: pip install 'keepalive-manager[http2]'"
        raise ModuleNotFoundError(msg, name="h2") from None
    from .http2.lifecycle import HTTP2Lifecycle

    globals()["HTTP2Lifecycle"] = HTTP2Lifecycle
    return HTTP2Lifecycle
