"""What a contender is.  A new one needs a name, the workloads it plays, and the methods these call."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import ssl
from itertools import cycle
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.orders import Order, Setup, Site
    from benchmarks.runtimes import Runtime

# HTTP as people run it: with time limits, URLs to choose from, TLS, a proxy.
USERS = (
    "limits-1", "limits-64", "limits-5000", "limits-download", "limits-upload", "tls-64", "tls-download",
    "json-64", "post-64", "many-hosts", "proxy-64",
)  # fmt: skip
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

# Which methods a workload calls; everything else about it is in workload_drivers.py.
#   warm, keys, watch   prepare(addrs), cycles(addrs)
#   contention          prepare([addr]), hold()
#   exchange-*          exchange()
#   cold-*              connect(talk)
#   USERS               aim(urls, close), limit(seconds), and what exchange-* and download, upload call
#   names               resolve(name)
#   sip                 listen(raw, got) -> port, held()
#   download, upload    download(), upload(content)


class Contender:
    """A pool, or a floor, seen by the workloads."""

    name: ClassVar[str]
    plays: ClassVar[tuple[str, ...]]
    loops: ClassVar[tuple[str, ...]] = ("asyncio",)
    needs: ClassVar[tuple[str, ...]] = ()
    # False where connections are stand-ins, whose memory says nothing.
    opens_sockets: ClassVar[bool] = True
    # Said in the report: what a figure holds besides the pool, or why there is none.
    remarks: ClassVar[dict[str, str]] = {}

    def __init__(self, site: Site, setup: Setup, runtime: Runtime) -> None:
        self.site = site
        self.setup = setup
        self.runtime = runtime

    @classmethod
    def missing(cls) -> str | None:
        """Say why this contender cannot run here, or None if it can."""
        for module in cls.needs:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        return None

    async def start(self) -> None:
        """Set the pool up; nothing needs to be open yet."""

    async def stop(self) -> None:
        """Take it down."""

    async def prepare(self, addrs: Sequence[str]) -> None:
        """Build whatever a user would build once per address, so that no figure holds it."""

    async def cycles(self, addrs: Sequence[str]) -> None:
        """Allocate and release once for each address in turn."""
        raise NotImplementedError

    async def hold(self) -> None:
        """Allocate, let the others run once, release."""
        raise NotImplementedError

    async def exchange(self) -> None:
        """Allocate, send the request, read the whole reply, release."""
        raise NotImplementedError

    def aim(self, urls: Sequence[str], close: bool = False) -> None:
        """Let the exchanges that follow go to these in turn; with `close`, over a new connection each."""
        self.urls = cycle(urls)
        self.headers = {"Connection": "close"} if close else None

    def limit(self, seconds: int) -> None:
        """Give the exchanges that follow time limits: none (0), 5 for each step, or 30 in all."""
        self.seconds = seconds

    async def resolve(self, name: str) -> str:
        """Ask for the address of a name."""
        raise NotImplementedError

    async def download(self) -> int:
        """GET /big and count the bytes of its content."""
        raise NotImplementedError

    async def upload(self, content: bytes) -> None:
        """POST the content."""
        raise NotImplementedError

    async def connect(self, talk: bool) -> None:
        """Open a new connection, make one exchange if told to, and close it."""
        raise NotImplementedError

    async def listen(self, raw: bool, got: Callable[[], None]) -> int:
        """Listen for SIP over TCP, calling back for each message, as bytes or parsed; gives the port."""
        raise NotImplementedError

    def held(self) -> int:
        """Say how many connections the listeners hold."""
        raise NotImplementedError

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.site.ca_file)


class Program(Contender):
    """A contender that is not written in Python: a command that prints its figures as JSON."""

    loops = ("",)
    program: ClassVar[str]
    package: ClassVar[str]

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which(cls.program) is None:
            return f"{cls.program} is not installed (Debian: {cls.package})"
        return None

    @classmethod
    def build(cls) -> None:
        """Compile it, if it must be."""

    @classmethod
    def command(cls, order: Order) -> list[str]:
        raise NotImplementedError

    @classmethod
    def parse(cls, output: str) -> dict[int, dict[str, float]]:
        from benchmarks.orders import figures_from_json

        return figures_from_json(output.splitlines()[-1])


def load(module: str) -> Any:
    """Import a peer.  As Any, since peers need not be installed where the types are checked."""
    return importlib.import_module(module)
