"""HTTP clients of other languages that Python calls: libcurl's multi interface, and Rust's reqwest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.contenders.contender import USERS, Contender, load
from benchmarks.orders import EACH, NO_LIMITS, TOTAL

if TYPE_CHECKING:
    from collections.abc import Callable


class Curl(Contender):
    """One multi handle on the event loop; easy handles are used again and again."""

    name = "pycurl"
    plays = tuple(name for name in USERS if name != "limits-upload")
    loops = ("asyncio", "uvloop")
    needs = ("pycurl",)
    remarks: ClassVar = dict.fromkeys(
        plays,
        "libcurl on the loop. For each step it can limit connecting, and answers that stand still",
    )

    async def start(self) -> None:
        self.curl = load("pycurl")
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: dict[Any, asyncio.Future[None]] = {}
        self.idle: list[Any] = []
        self.watched: dict[int, int] = {}
        multi = self.multi = self.curl.CurlMulti()
        multi.setopt(self.curl.M_SOCKETFUNCTION, self.watch)
        multi.setopt(self.curl.M_TIMERFUNCTION, self.set_timer)
        multi.setopt(self.curl.M_MAX_HOST_CONNECTIONS, self.setup.limit)
        multi.setopt(self.curl.M_MAX_TOTAL_CONNECTIONS, self.setup.total)
        multi.setopt(self.curl.M_MAXCONNECTS, self.setup.total)
        self.limit(NO_LIMITS)
        self.aim([self.setup.url])

    async def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for number in self.watched:
            self.loop.remove_reader(number)
            self.loop.remove_writer(number)
        self.watched.clear()
        for easy in self.idle:
            easy.close()
        self.multi.close()

    # -- the loop and libcurl -----------------------------------------------------------------------

    def watch(self, event: int, number: int, multi: Any, data: Any) -> None:
        curl, before = self.curl, self.watched.pop(number, 0)
        event = 0 if event == curl.POLL_REMOVE else event
        for bit, mask, add, remove in (
            (curl.POLL_IN, curl.CSELECT_IN, self.loop.add_reader, self.loop.remove_reader),
            (curl.POLL_OUT, curl.CSELECT_OUT, self.loop.add_writer, self.loop.remove_writer),
        ):
            if event & bit and not before & bit:
                add(number, self.act, number, mask)
            elif before & bit and not event & bit:
                remove(number)
        if event:
            self.watched[number] = event

    def set_timer(self, milliseconds: int) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None
        if milliseconds >= 0:
            self.timer = self.loop.call_later(milliseconds / 1000, self.act, self.curl.SOCKET_TIMEOUT, 0)

    def act(self, number: int, mask: int) -> None:
        self.multi.socket_action(number, mask)
        _, done, failed = self.multi.info_read()
        for easy in done:
            self.waiting.pop(easy).set_result(None)
        for easy, code, words in failed:
            self.waiting.pop(easy).set_exception(OSError(code, words))

    # -- what is measured ---------------------------------------------------------------------------

    def limit(self, seconds: int) -> None:
        self.seconds = seconds
        for easy in self.idle:
            easy.close()
        self.idle.clear()

    def make(self) -> Any:
        easy, setup = self.curl.Curl(), self.setup
        easy.setopt(self.curl.NOSIGNAL, 1)
        if self.seconds == EACH:
            easy.setopt(self.curl.CONNECTTIMEOUT, EACH)
            easy.setopt(self.curl.LOW_SPEED_LIMIT, 1)
            easy.setopt(self.curl.LOW_SPEED_TIME, EACH)
        elif self.seconds == TOTAL:
            easy.setopt(self.curl.TIMEOUT, TOTAL)
        if setup.scheme == "https":
            easy.setopt(self.curl.CAINFO, self.site.ca_file)
        if setup.proxy:
            easy.setopt(self.curl.PROXY, setup.proxy)
        if setup.content is not None:
            easy.setopt(self.curl.POST, 1)
            easy.setopt(self.curl.POSTFIELDS, setup.content)
        if self.headers:
            easy.setopt(self.curl.HTTPHEADER, [f"{name}: {value}" for name, value in self.headers.items()])
        return easy

    async def perform(self, url: str, take: Callable[[bytes], object]) -> None:
        easy = self.idle.pop() if self.idle else self.make()
        easy.setopt(self.curl.URL, url)
        easy.setopt(self.curl.WRITEFUNCTION, take)
        done = self.waiting[easy] = self.loop.create_future()
        self.multi.add_handle(easy)
        try:
            await done
        finally:
            self.multi.remove_handle(easy)
        if easy.getinfo(self.curl.RESPONSE_CODE) != 200:
            raise RuntimeError(f"{url} gave {easy.getinfo(self.curl.RESPONSE_CODE)}")
        self.idle.append(easy)

    async def exchange(self) -> None:
        pieces: list[bytes] = []
        await self.perform(next(self.urls), pieces.append)
        b"".join(pieces)

    async def download(self) -> int:
        size = 0

        def take(piece: bytes) -> None:
            nonlocal size
            size += len(piece)

        await self.perform(self.setup.home + "big", take)
        return size


class Pyqwest(Contender):
    """Rust's reqwest: its own threads do the work, here on the contender's one core."""

    name = "pyqwest"
    plays = tuple(name for name in USERS if name != "many-hosts")
    loops = ("asyncio",)
    needs = ("pyqwest",)
    remarks: ClassVar = {
        **dict.fromkeys(plays, "Rust's reqwest, in threads of its own; of single steps it limits two"),
        "many-hosts": "pyqwest has no limit of connections in all",
    }

    async def start(self) -> None:
        self.qwest = load("pyqwest")
        self.limit(NO_LIMITS)
        self.aim([self.setup.url])

    def limit(self, seconds: int) -> None:
        limits: dict[str, float | None] = {"connect_timeout": None}
        if seconds == EACH:
            limits = {"connect_timeout": EACH, "read_timeout": EACH}
        elif seconds == TOTAL:
            limits = {"timeout": TOTAL, "connect_timeout": None}
        with open(self.site.ca_file, "rb") as file:
            authority = file.read() if self.setup.scheme == "https" else None
        transport = self.qwest.HTTPTransport(
            max_connections_per_address=self.setup.limit,
            tls_ca_cert=authority,
            http_version=self.qwest.HTTPVersion.HTTP1,
            proxy=self.qwest.Proxy(self.setup.proxy) if self.setup.proxy else None,
            **limits,
        )
        self.client: Any = self.qwest.Client(transport)

    async def exchange(self) -> None:
        setup = self.setup
        if setup.content is None:
            await self.client.get(next(self.urls), headers=self.headers)
        else:
            await self.client.post(next(self.urls), headers=self.headers, content=setup.content)

    async def download(self) -> int:
        size = 0
        async with self.client.stream("GET", self.setup.home + "big") as response:
            async for piece in response.content:
                size += len(piece)
        return size

    async def upload(self, content: bytes) -> None:
        await self.client.post(self.setup.home, content=content)
