"""GETs through a manager, a few at a time; and whether the other scheme would have done better."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment

import anyio

from keepalive import AllocateError, AllocateTimeout, ConnectionManager, KeepaliveError, TLSConnector, http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .proxies import ProxyRoutes

_HEADERS = {"User-Agent": f"keepalive/{version('keepalive-manager')}", "Accept": "*/*"}

PATIENCE = 3.0
"""Seconds for one look at a scheme."""
# A host that fails so often in a row is left alone, so that -n 1000 does not wait 1000 timeouts.
GIVE_UP_AFTER = 5


class FetchError(Exception):
    """One GET has failed; the text is a line for people.

    :ivar scheme: whether that may be for a wrong scheme
    """

    def __init__(self, text: str, *, scheme: bool = False) -> None:
        super().__init__(text)
        self.scheme = scheme


@dataclass(frozen=True, slots=True)
class GetOptions:
    """What was asked for on the command line."""

    urls: Sequence[str]
    times: int
    concurrency: int
    per_host: int
    timeout: float
    insecure: bool


@dataclass(slots=True)
class Tally:
    """What has come of the requests so far."""

    wanted: int
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    size: int = 0
    retried: int = 0
    saved_tcp: int = 0
    saved_tls: int = 0
    interrupted: bool = False
    doubtful: dict[str, None] = field(default_factory=dict)
    """URLs whose scheme may be the wrong one."""

    @property
    def done(self) -> int:
        """How many requests have ended, well or not."""
        return len(self.latencies) + self.errors.total() + self.given_up


class Fetcher:
    """Fetch every URL as often as asked for, a few at a time, through one manager."""

    def __init__(
        self, manager: ConnectionManager, routes: ProxyRoutes, options: GetOptions, tally: Tally
    ) -> None:
        self._manager = manager
        self._requests = {url: routes.get(url, _HEADERS) for url in options.urls}
        self._timeout = options.timeout
        self._tally = tally
        self._failures: Counter[str] = Counter()  # in a row, by URL
        self._jobs: Iterator[str] = (url for _ in range(options.times) for url in options.urls)

    async def run(self, concurrency: int, progress: Callable[[], None]) -> None:
        """Do all the work; ``progress`` is called after each request."""
        async with anyio.create_task_group() as group:
            for _ in range(concurrency):
                group.start_soon(self._work, progress)

    async def _work(self, progress: Callable[[], None]) -> None:
        for url in self._jobs:
            if self._failures[url] >= GIVE_UP_AFTER:
                self._tally.given_up += 1
            else:
                await self._one(url)
            progress()

    async def _one(self, url: str) -> None:
        tally = self._tally
        started = time.perf_counter()
        try:
            status = await self._get(url)
        except FetchError as exc:
            self._failures[url] += 1
            tally.errors[f"{url}: {exc}"] += 1
            if exc.scheme:
                tally.doubtful[url] = None
            return
        self._failures[url] = 0
        tally.latencies.append(time.perf_counter() - started)
        tally.statuses[status] += 1
        if status == 400 and http.parse_url(url).scheme == "http":
            tally.doubtful[url] = None  # what most servers answer at their TLS ports

    async def _get(self, url: str) -> int:
        tally, size, scheme = self._tally, 0, http.parse_url(url).scheme
        try:
            limits = http.Timeout(total=self._timeout)
            async with http.Exchange(self._manager, *self._requests[url], limits) as response:
                async for piece in response:
                    size += len(piece)
        except AllocateTimeout as exc:
            text = f"timed out after {self._timeout:g} s ({exc.function})"
            raise FetchError(text, scheme=exc.function == "tls") from exc
        except AllocateError as exc:
            raise FetchError(f"{exc.function}: {exc.error_str}", scheme=_no_tls(exc)) from exc
        except http.HTTPTimeout as exc:
            raise FetchError(f"timed out after {self._timeout:g} s (no full answer)") from exc
        except http.NoAnswer as exc:
            hint = "; does the port want https://?" if scheme == "http" else ""
            raise FetchError(f"{exc}{hint}") from exc
        except http.HTTPError as exc:
            # A TLS server that cannot read the request sends an alert, or resets the connection.
            odd = isinstance(exc, http.ReadError) or r"b'\x15\x03" in str(exc)
            raise FetchError(str(exc), scheme=odd and scheme == "http") from exc
        tally.size += size
        tally.retried += response.retried
        used = response.from_cache is not None
        tally.saved_tcp += used
        tally.saved_tls += used and scheme == "https"
        return response.status


def _no_tls(exc: AllocateError) -> bool:
    """Say whether a handshake failed, and not for a certificate: then there may be no TLS at all."""
    return exc.function == "tls" and "certificate" not in exc.error_str


async def better_scheme(target: http.ParsedURL) -> str | None:
    """See whether a port speaks TLS where it was not asked for, or does not where it was.

    Nothing of the user's is sent to find out, neither path nor query.

    :return: a line for people; None if there is nothing to say, or a proxy is in the way
    """
    if getproxies_environment():
        return None
    where = f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"
    try:
        with anyio.fail_after(PATIENCE):
            if target.scheme == "http":
                await _shake_hands(target.host, target.port)
                return f"{where} speaks TLS: ask it by https://, not http://."
            await _ask_in_plain(f"http://{where.replace('%', '%25')}/")
            return f"{where} speaks HTTP without TLS: ask it by http://, not https://."
    except (KeepaliveError, OSError):
        return None


async def _shake_hands(host: str, port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False  # whoever it is, it is TLS
    context.verify_mode = ssl.CERT_NONE
    async with ConnectionManager(connectors={"https": TLSConnector(ssl_context=context)}) as manager:
        (await manager.allocate("https", host, port)).discard()


async def _ask_in_plain(url: str) -> None:
    async with ConnectionManager() as manager, http.Client(manager).request("HEAD", url):
        pass
