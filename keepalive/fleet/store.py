"""The store as a member reaches it: a Redis or Valkey server, a cluster of them, by coredis."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import coredis
from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoScriptError,
    RedisError,
    ResponseError,
    WrongTypeError,
)
from coredis.retry import NoRetryPolicy

from keepalive import FleetError, printable

from .script import SCRIPT, channel, meta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

logger = logging.getLogger("keepalive")

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
ERRORS = (RedisError, OSError, TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""What a call to a store that is away may raise."""


class Store:
    """A fleet's data in one store.

    :param timeout: seconds that one call may take
    """

    def __init__(self, client: Any, name: str, timeout: float) -> None:
        # Any: a client of one server or of a cluster, which have no class in common.
        self._client = client
        self._name = name
        self._timeout = timeout
        self._script: Any = None

    async def run(self, *arguments: str) -> Any:
        """Run the script.

        :raises FleetError: the store is there and will never take this: who retries does so in vain
        :raises OSError: it cannot be reached now
        """
        if self._script is None:
            self._script = self._client.register_script(SCRIPT)
        try:
            with anyio.fail_after(self._timeout):
                return await self._script(keys=[meta(self._name)], args=list(arguments))
        except ERRORS as error:
            raise explained(error, self._name) from error

    async def listen(self, member: str, told: Callable[[str], None]) -> None:
        """Pass on what the store tells a member, for as long as it is there."""
        place = channel(self._name, member)
        subscriber = self._client.pubsub(
            ignore_subscribe_messages=True, channels=[place], subscription_timeout=self._timeout
        )
        async with subscriber:
            async for message in subscriber:
                if message is not None and message["type"] == "message":
                    told(message["data"])


def explained(error: BaseException, name: str) -> Exception:
    """Say what is wrong: for good (FleetError), or for now (OSError)."""
    text = printable(str(error) or type(error).__name__)
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return FleetError(f"the store refuses this user or password: {text}")
    if isinstance(error, ResponseError):
        if "KEEPALIVEVERSION" in text:
            return FleetError(
                f"the fleet {name!r} is kept in another version's form ({text}): give this version's "
                "members another name, or let the others end first"
            )
        if isinstance(error, WrongTypeError):
            return FleetError(f"something else is kept under the name of the fleet {name!r}: {text}")
        if text.startswith(("LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "NOREPLICAS", "TRYAGAIN")):
            return OSError(text)
        if not isinstance(error, NoScriptError):
            return FleetError(f"the store cannot run the script of the fleet {name!r}: {text}")
    return OSError(f"the store cannot be reached: {text}")


def first_of(error: Exception) -> Exception:
    """Return an error, or the first one of a group."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def checked_url(url: object) -> str:
    """Check a store's address.

    :raises TypeError, ValueError: it is none
    """
    if not isinstance(url, str):
        msg = f"url must be a str, not {type(url).__name__}"
        raise TypeError(msg)
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not (parts.netloc or parts.path):
        msg = f"url must be like redis://host:6379, with one of the schemes {', '.join(SCHEMES)}"
        raise ValueError(msg)
    return url


@asynccontextmanager
async def opened(url: str, name: str, timeout: float) -> AsyncIterator[Store]:
    """Open a store; each call may take `timeout` seconds."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    options: dict[str, Any] = {
        "decode_responses": True,
        "connect_timeout": timeout,
        "stream_timeout": timeout,
        "retry_policy": NoRetryPolicy(),
    }
    plain = urlunsplit(parts._replace(scheme=scheme))
    client: Any
    if kind == "cluster":
        client = coredis.RedisCluster.from_url(plain, **options)
    else:
        client = coredis.Redis.from_url(plain, verify_version=False, **options)
    async with client:
        yield Store(client, name, timeout)
