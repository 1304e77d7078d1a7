"""Everybody who takes part."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contenders.contender import Contender, Program
from benchmarks.contenders.empty_pools import DictOfDeques, FuturesPool, IdleTransports, SipSplitter
from benchmarks.contenders.fan_out import FAN_OUTS
from benchmarks.contenders.keepalive_http import Httpx2Keepalive, Httpx2OverNothing, KeepaliveHttp
from benchmarks.contenders.keepalive_manager import Keepalive
from benchmarks.contenders.names import NAMES
from benchmarks.contenders.native_http import Curl, Pyqwest
from benchmarks.contenders.other_languages import Go, Poe, Wrk
from benchmarks.contenders.python_pools import Aiohttp, AsyncioConnectionPool, Httpcore2, Httpx2
from benchmarks.contenders.raw_sockets import AnyioStream, AsyncioProtocol, BlockingSocket, LoopSocketCalls
from benchmarks.contenders.redis import REDIS

CLASSES: tuple[type[Contender], ...] = (
    DictOfDeques, FuturesPool, IdleTransports, SipSplitter,
    BlockingSocket, LoopSocketCalls, AsyncioProtocol, AnyioStream,
    Keepalive, KeepaliveHttp, Httpx2Keepalive, Httpx2OverNothing,
    Aiohttp, Httpcore2, Httpx2, AsyncioConnectionPool,
    Curl, Pyqwest, Go, Poe, Wrk,
    *FAN_OUTS,
    *REDIS,
    *NAMES,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A contender on one event loop: what the tables show as a row."""

    kind: type[Contender]
    loop: str

    @property
    def id(self) -> str:
        return f"{self.kind.name}:{self.loop}" if self.loop else self.kind.name

    @property
    def label(self) -> str:
        many = len(self.kind.loops) > 1
        return f"{self.kind.name} ({self.loop})" if many else self.kind.name

    @property
    def is_program(self) -> bool:
        return issubclass(self.kind, Program)

    def missing(self) -> str | None:
        from importlib.util import find_spec

        if self.loop in ("uvloop", "trio") and find_spec(self.loop) is None:
            return f"{self.loop} is not installed"
        return self.kind.missing()


ENTRIES = tuple(Entry(kind, loop) for kind in CLASSES for loop in kind.loops)


def find(contender_id: str) -> Entry:
    return next(entry for entry in ENTRIES if entry.id == contender_id)


def choose(names: list[str]) -> list[Entry]:
    """Pick by name ("aiohttp": on every loop) or by id ("aiohttp:uvloop"); blanks and case do not count."""
    if not names:
        return list(ENTRIES)
    wanted = {_plain(name) for name in names}
    known = {_plain(entry.kind.name) for entry in ENTRIES} | {_plain(entry.id) for entry in ENTRIES}
    if unknown := wanted - known:
        raise ValueError(f"no such contender: {', '.join(sorted(unknown))}")
    return [entry for entry in ENTRIES if wanted & {_plain(entry.kind.name), _plain(entry.id)}]


def _plain(name: str) -> str:
    return name.lower().replace(" ", "-")
