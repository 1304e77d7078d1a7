"""One kernel queue of events for all sockets of a manager.

Each socket is registered once, edge-triggered, when its connection is made, and taken out when it is
closed; the queue's own descriptor is the only one that the event loop watches. An exchange or a reuse
needs no registration, the death of an idle connection is one more event, and it is alike on
asyncio, uvloop and trio.

Three traps are minded here and in `_link`:

* an end of stream that came together with data raises no second edge, so `hung` stays set;
* an event harvested after its bytes had been read is a false alarm: nobody acts on a flag alone;
* a forked child shares the queue with its parent: the child may close its copies of descriptors,
  but never register or unregister anything, which would change the parent's queue.
"""

from __future__ import annotations

import select
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .link import Alarms, Link
    from .runtime import Cancellable, Runtime


_MANY = 256
"""Events after which others have their turn, where the loop asks for more than one round."""


class Poller:
    """The sockets of one manager and what the kernel says of them. See `new_poller`."""

    deadlines: Alarms
    """Wakes the tasks that wait at links when their time has come; whoever makes the poller sets it."""

    def __init__(self, runtime: Runtime, unread: Callable[[Link], None], rounds: int = 1) -> None:
        """Start watching; `unread` is called for each link with something to read and nobody reading."""
        self.links: dict[int, Link] = {}
        self.loose: set[socket.socket] = set()  # of attempts, not links yet; a forked child closes them too
        self.freed: Callable[[], None] | None = None  # called when a link has closed its descriptor
        self.closed = False
        self._unread = unread
        self.park = runtime.park
        self._rounds = rounds
        ready = self.harvest if rounds == 1 else self._harvest_on
        self._watch: Cancellable = runtime.watch(self.fileno(), ready)

    def fileno(self) -> int:
        """Return the descriptor of the kernel's queue."""
        raise NotImplementedError

    def add(self, link: Link) -> None:
        """Register a link, for good; what is ready already is reported too."""
        raise NotImplementedError

    def watch(self, link: Link, watched: bool) -> None:
        """Say whether what comes over a link is to be told of; if so, what is there already is told, too."""

    def mind_room(self, link: Link, minded: bool) -> None:
        """Say from now on whether there is room to send on a link; at first `Link.minds_room` decides."""

    def remove(self, link: Link) -> None:
        """Take a link out; to be called before its descriptor is closed.

        Closing alone would not do: a copy of the descriptor in a forked child keeps it registered.
        """
        raise NotImplementedError

    poll: Callable[[], list[Any]]
    """Takes events from the kernel, which must be given to `sort` at once. Never blocks."""

    def sort(self, events: list[Any], *, all_links: bool = True) -> None:
        """Set the flags of these events' links, wake readers and writers; then go on with what else came.

        It goes on until each link has had its turn, and no longer: where one event leads to the next,
        there are always some.

        :param all_links: False deals with these events only
        """
        raise NotImplementedError

    def harvest(self) -> None:
        """Take all events that the kernel has by now. Never blocks."""
        if events := self.poll():
            self.sort(events)

    def _harvest_on(self) -> None:
        """Do the same, a few times over: what has come meanwhile is cheaper now than in a turn of its own."""
        sorted_ = 0
        for _ in range(self._rounds):
            events = self.poll()
            if not events:
                return
            self.sort(events, all_links=False)
            sorted_ += len(events)
            if sorted_ > _MANY:
                return

    def _close_queue(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Stop watching. The links must have been closed before."""
        if not self.closed:
            self.closed = True
            self._watch.cancel()
            self._close_queue()

    def abandon(self) -> None:
        """In a forked child: close all copies of descriptors; the parent's queue and loop stay untouched."""
        self.closed = True
        self._drop_all()
        self._close_queue()

    def _drop_all(self) -> None:
        for link in self.links.values():
            link.drop()
        for sock in self.loose:
            sock.close()
        self.links.clear()
        self.loose.clear()

    def _readable(self, link: Link) -> None:
        link.readable = True
        reader = link.reader
        if reader is None:
            self._unread(link)
        elif not reader.done():
            reader.set_result(None)
        writer = link.writer
        if link.starved and writer is not None and not writer.done():
            writer.set_result(None)


if sys.platform == "linux":
    _EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
    _INPUT = _EVENTS & ~select.EPOLLOUT
    _HUNG = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _IN = select.EPOLLIN | _HUNG
    _OUT = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
    _BATCH = 85  # events of one call: the kernel's records for them fit into 1 KB, which malloc has at hand

    class _EpollPoller(Poller):
        def __init__(self, runtime: Runtime, unread: Callable[[Link], None], rounds: int = 1) -> None:
            self._epoll = select.epoll()
            self.poll = partial(self._epoll.poll, 0, _BATCH)
            super().__init__(runtime, unread, rounds)

        def fileno(self) -> int:
            return self._epoll.fileno()

        def add(self, link: Link) -> None:
            self._epoll.register(link.fd, _EVENTS if link.minds_room else _INPUT)
            self.links[link.fd] = link

        def watch(self, link: Link, watched: bool) -> None:
            self._epoll.modify(link.fd, _EVENTS if watched else 0)

        def mind_room(self, link: Link, minded: bool) -> None:
            self._epoll.modify(link.fd, _EVENTS if minded else _INPUT)

        def remove(self, link: Link) -> None:
            if self.links.get(link.fd) is link:
                del self.links[link.fd]
                with suppress(OSError):  # the user may have closed the raw socket
                    self._epoll.unregister(link.fd)

        def sort(self, events: list[tuple[int, int]], *, all_links: bool = True) -> None:
            get = self.links.get
            sorted_ = 0
            while events:
                for fd, bits in events:
                    link = get(fd)
                    if link is None:
                        continue  # closed by what an earlier event of this harvest led to
                    if bits & _HUNG:
                        link.hung = True
                    if bits & _OUT and (writer := link.writer) is not None and not writer.done():
                        writer.set_result(None)
                    if bits & _IN:  # as `_readable` has it, without its call
                        link.readable = True
                        reader = link.reader
                        if reader is None:
                            self._unread(link)
                        elif not reader.done():
                            reader.set_result(None)
                sorted_ += len(events)
                if len(events) < _BATCH or not all_links or sorted_ > len(self.links):
                    return
                events = self.poll()

        def _close_queue(self) -> None:
            self._epoll.close()

    _SystemPoller: type[Poller] | None = _EpollPoller
elif hasattr(select, "kqueue"):
    _BATCH = 256

    class _KqueuePoller(Poller):
        def __init__(self, runtime: Runtime, unread: Callable[[Link], None], rounds: int = 1) -> None:
            self._kqueue = select.kqueue()
            self.poll = partial(self._kqueue.control, None, _BATCH, 0)
            super().__init__(runtime, unread, rounds)

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def _change(self, fd: int, flags: int) -> None:
            filters = (select.KQ_FILTER_READ, select.KQ_FILTER_WRITE)
            self._kqueue.control([select.kevent(fd, which, flags) for which in filters], 0, 0)

        def add(self, link: Link) -> None:
            self._change(link.fd, select.KQ_EV_ADD | select.KQ_EV_CLEAR)
            self.links[link.fd] = link

        def remove(self, link: Link) -> None:
            if self.links.get(link.fd) is link:
                del self.links[link.fd]
                with suppress(OSError):  # the user may have closed the raw socket
                    self._change(link.fd, select.KQ_EV_DELETE)

        def sort(self, events: list[select.kevent], *, all_links: bool = True) -> None:
            sorted_ = 0
            while events:
                for event in events:
                    link = self.links.get(event.ident)
                    if link is None:
                        continue
                    if event.flags & select.KQ_EV_EOF:
                        link.hung = True
                    if event.filter == select.KQ_FILTER_READ:
                        self._readable(link)
                    elif (writer := link.writer) is not None and not writer.done():
                        writer.set_result(None)
                sorted_ += len(events)  # one of each filter: up to two for a link
                if len(events) < _BATCH or not all_links or sorted_ > 2 * len(self.links):
                    return
                events = self.poll()

        def abandon(self) -> None:
            # A kqueue is not inherited by a forked child: its descriptor is not open there.
            self.closed = True
            self._drop_all()

        def _close_queue(self) -> None:
            self._kqueue.close()

    _SystemPoller = _KqueuePoller
else:
    _SystemPoller = None


def new_poller(runtime: Runtime, unread: Callable[[Link], None], rounds: int = 1) -> Poller:
    """Return the poller of this system; it looks for events up to `rounds` times in one turn of the loop."""
    if _SystemPoller is None:
        msg = "keepalive needs epoll or kqueue (Linux, macOS, BSD); this system has neither"
        raise NotImplementedError(msg)
    return _SystemPoller(runtime, unread, rounds)
