"""The peers of the SIP workload: connect when told, send requests when told.

Usage: python -m benchmarks.sip_peers PORT CORE|-; takes "open N" and "send N" on its input, a line each,
and ends with its input. CORE is the one to stay away from.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from itertools import cycle, islice

REQUEST = (
    b"OPTIONS sip:bob@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:5062;branch=z9hG4bK%012d\r\n"
    b"From: <sip:alice@127.0.0.1>;tag=1234567890abcdef\r\n"
    b"To: <sip:bob@127.0.0.1>\r\nCall-ID: abcdef0123456789@127.0.0.1\r\n"
    b"CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContact: <sip:alice@127.0.0.1:5062>\r\nContent-Length: 0\r\n\r\n"
)  # 300 bytes


def main() -> None:
    port, core = int(sys.argv[1]), sys.argv[2]
    if core != "-":
        os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {int(core)})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peers: list[socket.socket] = []
    number = 0
    for line in sys.stdin:
        word, count = line.split()
        if word == "open":
            peers.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(int(count)))
        else:
            for peer in islice(cycle(peers), int(count)):
                number += 1
                peer.sendall(REQUEST % number)


if __name__ == "__main__":
    main()
