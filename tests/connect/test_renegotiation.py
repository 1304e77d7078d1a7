"""TLS 1.2 renegotiation, as IIS does it to ask for a client's certificate: a send waits it out."""

from __future__ import annotations

import subprocess
import threading
from typing import IO, TYPE_CHECKING

import anyio
import anyio.lowlevel

from keepalive import ConnectionManager, TLSConnector
from tests.support.peers import free_port, require_peer
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Authority


async def test_a_send_in_the_midst_of_a_renegotiation(ca: Authority, tmp_path: Path) -> None:
    """The peer gets every byte, in order; it writes what it gets to its output."""
    pair, _ = ca.write(tmp_path)
    port = free_port()
    argv = [require_peer("openssl"), "s_server", "-tls1_2", "-accept", str(port), "-cert", str(pair)]
    context = ca.client()
    accepting, got = threading.Event(), [0]

    def listen(output: IO[bytes]) -> None:
        for line in output:
            if b"ACCEPT" in line:
                accepting.set()
            got[0] += line.startswith(b"x" * 1000)

    with subprocess.Popen(argv, stdin=-1, stdout=-1, stderr=-3) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        listener = threading.Thread(target=listen, args=(peer.stdout,))
        listener.start()
        try:
            assert accepting.wait(10)
            async with ConnectionManager(connectors={"tls": TLSConnector(context, "localhost")}) as mgr:
                with anyio.fail_after(20):
                    async with mgr.allocate("tls", "127.0.0.1", port, 5) as conn:
                        assert conn.is_new
                        peer.stdin.write(b"R\n")
                        peer.stdin.flush()
                        # The peer's HelloRequest is met by a read; what is sent from then on has to wait.
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(conn.receive)
                            for _ in range(200):
                                await conn.send(b"x" * 1000 + b"\n")
                                await anyio.lowlevel.checkpoint()
                            tasks.cancel_scope.cancel()
                        await until(lambda: got[0] >= 200, 20)
                        conn.discard()
        finally:
            peer.kill()
            listener.join()
