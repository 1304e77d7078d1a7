"""The system's own resolver, in threads of its own."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import OrderedDict
from contextlib import suppress

import anyio
from anyio import from_thread

from keepalive.base import arguments as settings
from keepalive.resolve.resolver import Resolution


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
    counts, and answers the next one who asks for the same name. It tells no time to live, so nothing is
    remembered: every new connection asks the system again.

    :param threads: how many look-ups may run at once, hanging ones included; further names wait
    """

    absolute_names = True  # a trailing dot means something to it

    def __init__(self, threads: int = 8) -> None:
        self._threads = settings.count("threads", threads, least=1)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._process = os.getpid()
        self._free = self._threads
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}  # running or waiting for a thread
        self._waiting: OrderedDict[str, None] = OrderedDict()

    async def resolve(self, host: str) -> Resolution:
        """Return the addresses in the system's order of preference. Switches tasks.

        :raises OSError: the name does not exist, nobody could be asked, or no thread could be started
        """
        if self._process != os.getpid():
            self._start_afresh()  # after a fork: the threads, and who holds the lock, are the parent's
        asker = anyio.lowlevel.current_token(), anyio.Event()
        with self._lock:
            job = self._jobs.get(host)
            if job is None:
                job = self._jobs[host] = _Job()
                self._waiting[host] = None
            job.askers.append(asker)
            start = bool(self._waiting) and self._free > 0
            if start:
                self._free -= 1
        try:
            if start:
                self._start_thread()
            await asker[1].wait()
        finally:
            with self._lock:
                if asker in job.askers:
                    job.askers.remove(asker)
                if not job.askers and host in self._waiting and self._jobs[host] is job:
                    del self._waiting[host], self._jobs[host]
        if job.found is not None:
            return job.found
        assert job.error is not None, "a finished job has found something or failed"
        raise type(job.error)(*job.error.args) from job.error

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name="keepalive look-up", daemon=True).start()
        except RuntimeError as exc:  # there are too many in this process, or in the system
            with self._lock:
                self._free += 1
            raise OSError(errno.EAGAIN, str(exc)) from exc

    def _look_up(self, host: str) -> tuple[str, ...]:
        found = socket.getaddrinfo(host, None, socket.AF_UNSPEC, socket.SOCK_STREAM)
        return tuple(dict.fromkeys(_with_zone(*address) for *_, address in found))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                host, _ = self._waiting.popitem(last=False)
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


def _with_zone(address: str | int, port: object = 0, flow: object = 0, scope: int = 0, *_: object) -> str:
    """Return an address as a literal, with the zone that it means nothing without (RFC 4007 11)."""
    literal = str(address)
    if not scope or "%" in literal:
        return literal
    try:
        return f"{literal}%{socket.if_indextoname(scope)}"
    except OSError:  # that interface has just gone, or has no name
        return f"{literal}%{scope}"
