"""A small real server for tests: a thread of its own, controls that any loop or thread may call."""

from __future__ import annotations

import select
import selectors
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from anyio import CapacityLimiter, to_thread

from tests.support.behaviours import Echo
from tests.support.peer import Behaviour, Peer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

T = TypeVar("T")

# POLLRDHUP is Linux's; elsewhere a peer's end is seen a little later, when it is read.
_HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_PATIENCE = 10.0


class Server:
    """Listen in a thread of its own, on TCP (``host``) or on a Unix socket (``path``), perhaps with TLS.

    The numbers are exact when they are asked for: the thread accepts what is pending and looks for peers
    that have gone before it answers. ``peak`` never counts a connection that was closed before the one
    that was accepted last.

    :param accepting: ``False`` leaves connections in the kernel's queue until `resume_accepting`.
    :param accept_delay: seconds between a connection's arrival and its ``accept``.
    :param receive_buffer: the kernel's receive buffer of each connection, to feel back-pressure early.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        accepting: bool = True,
        accept_delay: float = 0.0,
        backlog: int = 1024,
        receive_buffer: int | None = None,
    ) -> None:
        self.behaviour = behaviour if behaviour is not None else Echo()
        self.host = host if path is None else str(path)
        self.port = port
        self.peer_addresses: list[Any] = []  # socket addresses have no common type
        self.handshakes = 0
        self.resumed = 0
        self._path = path
        self._tls = tls
        self._accepting = accepting
        self._accept_delay = accept_delay
        self._accept_at: float | None = None
        self._backlog = backlog
        self._receive_buffer = receive_buffer
        self._peers: set[Peer] = set()
        self._accepted = 0
        self._peak = 0
        self._received = 0
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._changed = threading.Condition()
        self._version = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    # Life: from here on until "The thread's side", everything may be called from anywhere.

    def __enter__(self) -> Self:
        self._listener = self._listen()
        if self._path is None:
            self.port = self._listener.getsockname()[1]
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)
        if self._accepting:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"test server {self.host}:{self.port}")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        thread = self._thread
        assert thread is not None, "a server is entered before it is left"
        self._call(self._stop)
        thread.join()
        self._thread = None
        self._selector.close()
        for sock in (self._listener, self._wake_r, self._wake_w):
            sock.close()
        if self._path is not None:
            Path(self._path).unlink(missing_ok=True)

    def stop_listening(self) -> None:
        """Close the listener, so that new connections are refused; open ones stay."""
        self.pause_accepting()
        self._call(self._listener.close)

    @property
    def connections(self) -> int:
        """How many connections are open, as the peer counts them."""
        return self._call(self._count)

    @property
    def peak(self) -> int:
        """How many connections were ever open at once."""
        self._call(self._count)
        return self._peak

    @property
    def accepted(self) -> int:
        """How many connections have been accepted in all."""
        self._call(self._count)
        return self._accepted

    @property
    def received(self) -> int:
        """How many bytes have arrived in all."""
        return self._call(lambda: self._received + sum(peer.received for peer in self._peers))

    def push(self, data: bytes) -> None:
        """Send to everyone who is connected and, with TLS, shaken hands with."""

        def send(peer: Peer) -> None:
            if peer.shaking:
                peer.ready(0)  # its last word may be here already
            if not peer.shaking:
                peer.send(data)

        self._each(send)

    def do(self, action: Callable[[], T]) -> T:
        """Do something in the server's thread, with its peers perhaps."""
        return self._call(action)

    def disconnect_all(self) -> None:
        """Close every connection with a FIN; it has reached the other side when this returns."""
        self._each(Peer.close)

    def half_close_all(self) -> None:
        """Send a FIN on every connection and go on reading."""
        self._each(Peer.half_close)

    def reset_all(self) -> None:
        """Close every connection with an RST."""
        self._each(Peer.reset)

    def cut_all(self) -> None:
        """Close every connection with a FIN but, with TLS, without its farewell."""
        self._each(Peer.cut)

    def pause_reading(self) -> None:
        """Stop reading from those who are connected."""
        self._each(Peer.pause)

    def resume_reading(self) -> None:
        """Read again."""
        self._each(Peer.resume)

    def pause_accepting(self) -> None:
        """Leave new connections in the kernel's queue."""
        self._call(lambda: self._accept_from_now_on(False))

    def resume_accepting(self) -> None:
        """Accept what waits in the kernel's queue, and whatever comes."""
        self._call(lambda: self._accept_from_now_on(True))

    def wait_for(self, predicate: Callable[[Self], bool], timeout: float = _PATIENCE) -> None:
        """Block until ``predicate(server)`` holds; `AssertionError` if it does not within ``timeout``."""
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                version = self._version
            if predicate(self):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"not reached within {timeout} s: {self!r}")
            with self._changed:
                if self._version == version:
                    # The end of a peer that is not read from gives no event; hence the look every 20 ms.
                    self._changed.wait(min(left, 0.02))

    async def until(self, predicate: Callable[[Self], bool], timeout: float = _PATIENCE) -> None:
        """Do `wait_for` without blocking the caller's loop."""
        # A limiter of its own: the library's use of the shared one is itself under test.
        await to_thread.run_sync(self.wait_for, predicate, timeout, limiter=CapacityLimiter(1))

    def __repr__(self) -> str:
        open_ = sum(not peer.gone for peer in self._peers.copy())
        return (
            f"<Server {self.host}:{self.port} open={open_} peak={self._peak} accepted={self._accepted} "
            f"received={self._received} handshakes={self.handshakes}>"
        )

    def _each(self, action: Callable[[Peer], None]) -> None:
        def everyone() -> None:
            self._count()
            for peer in tuple(self._peers):
                if not peer.closed:
                    action(peer)

        self._call(everyone)

    def _call(self, function: Callable[[], T]) -> T:
        if self._thread is None or self._thread is threading.current_thread():
            return function()
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as exc:
                answer.set_exception(exc)

        self._commands.put(run)
        self._wake_w.send(b"\0")
        return answer.result(_PATIENCE)

    # The thread's side.

    def watch(self, peer: Peer) -> None:
        """Wait for what the peer waits for now."""
        known = peer.sock in self._selector.get_map()
        if not peer.events:
            if known:
                self._selector.unregister(peer.sock)
        elif known:
            self._selector.modify(peer.sock, peer.events, peer)
        else:
            self._selector.register(peer.sock, peer.events, peer)

    def forget(self, peer: Peer) -> None:
        """Let go of a peer that is about to close its socket."""
        self._received += peer.received
        self._peers.discard(peer)
        if peer.sock in self._selector.get_map():
            self._selector.unregister(peer.sock)

    def shaken(self, resumed: bool) -> None:
        """Count a TLS hand-shake."""
        self.handshakes += 1
        self.resumed += resumed
        self.changed()

    def changed(self) -> None:
        """Wake those who wait for a state."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def _listen(self) -> socket.socket:
        family = socket.AF_UNIX if self._path else socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        listener.bind(str(self._path) if self._path else (self.host, self.port))
        listener.listen(self._backlog)
        listener.setblocking(False)
        return listener

    def _run(self) -> None:
        while not self._stopping:
            timeout = None
            if self._accept_at is not None:
                timeout = max(0.0, self._accept_at - time.monotonic())
            for key, mask in self._selector.select(timeout):
                if isinstance(key.data, Peer):
                    if not key.data.closed:
                        key.data.ready(mask)
                elif key.fileobj is self._wake_r:
                    self._wake_r.recv(4096)
                else:
                    self._connections_wait()
            if self._accept_at is not None and time.monotonic() >= self._accept_at:
                self._accept_at = None
                self._selector.register(self._listener, selectors.EVENT_READ, None)
                self._accept_all()
            self._obey()

    def _obey(self) -> None:
        while True:
            try:
                command = self._commands.get_nowait()
            except Empty:
                return
            command()

    def _connections_wait(self) -> None:
        if self._accept_delay:
            self._selector.unregister(self._listener)
            self._accept_at = time.monotonic() + self._accept_delay
        else:
            self._accept_all()

    def _accept_from_now_on(self, accepting: bool) -> None:
        if accepting != self._accepting:
            self._accepting = accepting
            self._accept_at = None
            if accepting:
                self._selector.register(self._listener, selectors.EVENT_READ, None)
                self._accept_all()
            elif self._listener in self._selector.get_map():
                self._selector.unregister(self._listener)

    def _accept_all(self) -> None:
        while True:
            try:
                sock, address = self._listener.accept()
            except OSError:  # nothing waits; or no descriptor is left, then the next turn tries again
                return
            sock.setblocking(False)
            if self._path is None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is pushed arrives at once
            if self._tls is not None:
                try:
                    sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                except OSError:  # reset by the other side before this
                    sock.close()
                    self._accepted += 1
                    continue
            peer = Peer(self, sock, self.behaviour)
            self._peers.add(peer)
            self._accepted += 1
            self.peer_addresses.append(address)
            if sum(not known.gone for known in self._peers) > self._peak:
                self._peak = max(self._peak, self._look_around())
            self.watch(peer)
            peer.start()
            self.changed()

    def _count(self) -> int:
        if self._accepting and not self._accept_delay and self._thread is not None:
            self._accept_all()
        return self._look_around()

    def _look_around(self) -> int:
        """Ask the kernel who has gone; gives the number of those who have not."""
        poll = select.poll()
        by_number = {peer.sock.fileno(): peer for peer in self._peers if not peer.gone}
        for number in by_number:
            poll.register(number, _HANG_UP)
        for number, _ in poll.poll(0):
            by_number[number].gone = True
        return sum(not peer.gone for peer in self._peers)

    def _stop(self) -> None:
        self._stopping = True
        for peer in tuple(self._peers):
            peer.close()
            peer.cut()  # if something was still to be sent
