"""From host names to addresses: literals, localhost, and look-ups that all askers share."""

from __future__ import annotations

import math
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from anyio import from_thread

from . import _settings as settings
from ._core._types import Phase
from ._dial import DialFailure, is_literal, text_of
from .abc import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._runtime import Cancellable, Parking, Runtime
    from .abc import Resolver

__all__ = ("Names", "StaticResolver", "SystemResolver")

LOOPBACK = ("127.0.0.1", "::1")


class _Job:
    """One look-up of the system's resolver in a thread, and who waits for it in which event loop."""

    def __init__(self) -> None:
        self.askers: list[tuple[anyio.lowlevel.EventLoopToken, anyio.Event]] = []
        self.found: Resolution | None = None
        self.error: Exception | None = None


class SystemResolver:
    """The system's own resolver (`getaddrinfo`): hosts file, DNS, mDNS, whatever nsswitch says.

    It runs in threads of its own, never in a pool shared with other work, so that unrelated sleepers
    do not turn into "DNS timeouts". A thread cannot be cancelled: one whose askers have all gone goes on,
    counts, and answers the next one who asks for the same name. It tells no time to live.

    :param threads: how many look-ups may run at once, hanging ones included; further names wait
    """

    def __init__(self, threads: int = 8) -> None:
        self._free = settings.count("threads", threads, least=1)
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}  # running or waiting for a thread
        self._waiting: deque[str] = deque()

    async def resolve(self, host: str) -> Resolution:
        """Return the addresses in the system's order of preference. Switches tasks.

        :raises OSError: the name does not exist, or nobody could be asked
        """
        asker = anyio.lowlevel.current_token(), anyio.Event()
        with self._lock:
            job = self._jobs.get(host)
            if job is None:
                job = self._jobs[host] = _Job()
                self._waiting.append(host)
            job.askers.append(asker)
            start = bool(self._waiting) and self._free > 0
            if start:
                self._free -= 1
        if start:
            threading.Thread(target=self._work, name="keepalive look-up", daemon=True).start()
        try:
            await asker[1].wait()
        finally:
            with self._lock:
                if asker in job.askers:
                    job.askers.remove(asker)
        if job.found is not None:
            return job.found
        assert job.error is not None, "a finished job has found something or failed"
        raise type(job.error)(*job.error.args) from job.error

    def _look_up(self, host: str) -> tuple[str, ...]:
        found = socket.getaddrinfo(host, None, socket.AF_UNSPEC, socket.SOCK_STREAM)
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                host = self._waiting.popleft()
                job = self._jobs[host]
            try:
                job.found = Resolution(self._look_up(host))
            except Exception as exc:  # an OSError, or a UnicodeError for what cannot be a name
                job.error = exc
            with self._lock:
                del self._jobs[host]
                askers, job.askers = job.askers, []
            for token, event in askers:
                with suppress(RuntimeError):  # that event loop has ended meanwhile
                    from_thread.run_sync(event.set, token=token)


class StaticResolver:
    """A fixed table, for tests and closed networks: names to one address or several."""

    def __init__(self, table: Mapping[str, str | Sequence[str]]) -> None:
        self._table = {
            host.lower().rstrip("."): settings.addresses(host, found) for host, found in table.items()
        }

    async def resolve(self, host: str) -> Resolution:
        """Return the table's entry; names are compared without case and trailing dot."""
        try:
            return Resolution(self._table[host.lower().rstrip(".")], math.inf)
        except KeyError:
            raise socket.gaierror(socket.EAI_NONAME, "not in the table") from None


class _Lookup:
    __slots__ = ("answer", "askers", "task")

    def __init__(self) -> None:
        self.askers: dict[Parking, None] = {}
        self.answer: tuple[str, ...] | DialFailure | None = None
        self.task: Cancellable | None = None


class Names:
    """The look-ups of one manager: one per name at a time, which belongs to all who wait for it."""

    def __init__(self, resolver: Resolver, runtime: Runtime, ended: Callable[[], None]) -> None:
        self._resolver = resolver
        self._ended = ended
        self._runtime = runtime
        self._running: dict[str, _Lookup] = {}
        self.tasks = 0  # not yet ended, cancelled ones included

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host, at least one. Cancelling one asker never hurts another.

        :raises DialFailure: there are none
        """
        if is_literal(host):
            return (host,)
        name = host.lower().rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            return LOOPBACK  # RFC 6761 6.3
        lookup = self._running.get(name)
        if lookup is None:
            lookup = self._running[name] = _Lookup()
            self._start(name, lookup)
        parked = self._runtime.park()
        lookup.askers[parked] = None
        try:
            await parked
        finally:
            del lookup.askers[parked]
            if not lookup.askers and lookup.answer is None:
                self._drop(name, lookup)
        if isinstance(lookup.answer, tuple):
            return lookup.answer
        assert lookup.answer is not None, "askers are woken by an answer only"
        # An exception object of its own for each asker: tracebacks grow on what is raised.
        raise DialFailure(*lookup.answer.args) from lookup.answer.__cause__

    def _start(self, name: str, lookup: _Lookup) -> None:
        async def run() -> None:
            try:
                found = await self._resolver.resolve(name)
                lookup.answer = _checked(name, found)
            except Exception as exc:  # whatever a resolver raises is the answer to all who asked
                lookup.answer = exc if isinstance(exc, DialFailure) else _failure(exc)

        def done() -> None:
            self.tasks -= 1
            if lookup.answer is None:  # ended from outside, or by a cancellation of the resolver's own
                lookup.answer = DialFailure(Phase.RESOLVE, None, "the look-up was cancelled")
            self._drop(name, lookup, answered=True)
            for parked in lookup.askers:
                if not parked.done():
                    parked.set_result(None)
            self._ended()

        try:
            lookup.task = self._runtime.spawn(run, done, f"keepalive look-up of {name}")
        except BaseException:
            del self._running[name]
            raise
        self.tasks += 1

    def _drop(self, name: str, lookup: _Lookup, *, answered: bool = False) -> None:
        if self._running.get(name) is lookup:
            del self._running[name]
        if not answered and lookup.task is not None:
            lookup.task.cancel()


def _checked(name: str, found: Resolution) -> tuple[str, ...]:
    addresses = tuple(address for address in found.addresses if is_literal(address))
    if not addresses:
        raise DialFailure(Phase.RESOLVE, None, f"{name} has no address")
    return addresses


def _failure(exc: Exception) -> DialFailure:
    failure = DialFailure(Phase.RESOLVE, None, text_of(exc))
    failure.__cause__ = exc
    return failure
