"""Many messages to peers that read, stall, close and reset as they like: one outcome each, in order."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.sip.kit import leg, request
from tests.support.waiting import turns

if TYPE_CHECKING:
    from keepalive.sip import SendError


class Peer:
    """A listener whose connections do at each step what chance says."""

    def __init__(self, stack: ExitStack, rng: random.Random) -> None:
        self._rng = rng
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.listener.setblocking(False)
        self.where = self.listener.getsockname()[:2]
        self.conns: list[socket.socket] = []

    def step(self) -> None:
        with suppress(BlockingIOError):
            self.conns.append(self.listener.accept()[0])
            self.conns[-1].setblocking(False)
        for conn in list(self.conns):
            chance = self._rng.random()
            if chance < 0.5:
                with suppress(OSError):
                    conn.recv(100_000)
            elif chance < 0.55:
                with suppress(OSError):
                    conn.send(b"garbage\r\n\r\n" if chance < 0.52 else b"\r\n\r\n" + request())
            elif chance < 0.6:
                if chance < 0.57:
                    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                conn.close()
                self.conns.remove(conn)


@pytest.mark.parametrize("seed", range(3))
async def test_every_message_has_one_outcome(seed: int) -> None:
    rng = random.Random(seed)
    outcomes: dict[int, list[SendError | None]] = {}
    sent_to: dict[int, int] = {}
    order: list[int] = []

    def tell(number: int, error: SendError | None) -> None:
        outcomes.setdefault(number, []).append(error)
        order.append(number)

    with ExitStack() as stack:
        peers = [Peer(stack, rng) for _ in range(4)]
        async with leg(max_queue=1_000_000, max_connections=6) as pool:
            pool.attach(lambda *_: None)
            for number in range(200):
                which = rng.randrange(4)
                sent_to[number] = which
                body = b"x" * rng.choice((0, 100, 20_000, 100_000))
                pool.send_soon(request(body=body), peers[which].where, partial(tell, number))
                if rng.random() < 0.3:
                    await turns(rng.randrange(3))
                for peer in peers:
                    peer.step()
        for peer in peers:
            for conn in peer.conns:
                conn.close()
    assert sorted(outcomes) == list(range(200)), f"seed {seed}"
    assert all(len(told) == 1 for told in outcomes.values()), f"seed {seed}"
    refused = ("queue", "limit")  # these are told at once, before those that wait already
    for which in range(4):
        mine = [
            n for n in order if sent_to[n] == which and getattr(outcomes[n][0], "reason", "") not in refused
        ]
        assert mine == sorted(mine), f"seed {seed}"
    assert any(told == [None] for told in outcomes.values())
