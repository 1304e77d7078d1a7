"""A lean HTTP/1.1 exchange over the connections of a manager.

    async with ConnectionManager() as mgr:
        client = http.Client(mgr, timeout=10)
        async with client.request("GET", "http://localhost:8080/") as response:
            print(response.status, await response.read())

HTTP/1.1 only: no HTTP/2, cookies, redirects or decoding. `keepalive.httpx` puts it under a whole client.
"""

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
    WriteTimeout,
)
from .head import Headers, HeadLimits
from .request import Message, compose
from .response import RawStream, Response
from .timeout import Timeout
from .url import ParsedURL, parse_url

__all__ = (
    "BadAnswer",
    "Client",
    "EnvironmentProxies",
    "Exchange",
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
    "Response",
    "Timeout",
    "WriteTimeout",
    "compose",
    "parse_url",
    "request",
)
