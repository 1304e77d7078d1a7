"""Any bytes may come as a proxy's answer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from keepalive.base.failure import DialFailure
from keepalive.connect.http_proxy import Answer, _read_head
from tests.support.proxies import head


class Bytes:
    """As much of a link as the reader of answers needs: bytes that are there, in pieces, then the end."""

    def __init__(self, data: bytes, rng: random.Random) -> None:
        self.left = data
        self._rng = rng

    def peek(self, size: int) -> bytes:
        return self.left[: self._rng.randint(1, size)]

    def try_receive(self, size: int) -> bytes:
        taken, self.left = self.left[:size], self.left[size:]
        return taken


@pytest.mark.parametrize("seed", range(20))
def test_any_answer_is_understood_or_refused(seed: int) -> None:
    """Against a model: the head ends at the first empty line, and not a byte behind it is taken."""
    rng = random.Random(seed)
    for _ in range(200):
        answer = bytearray(head("HTTP/1.1 200 Fine", Via="1.1 x", Date="today") + b"\r\n\r\nthe rest")
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(answer))
            answer[at : at + rng.randint(0, 2)] = rng.choice([b"", b"\r\n", b"\n", b"\0", b":", b" ", b"200"])
        link: Any = Bytes(bytes(answer), rng)
        reading = _read_head(Answer(link))
        outcome: BaseException | None = None
        try:
            reading.send(None)
        except (StopIteration, DialFailure) as exc:
            outcome = exc
        if isinstance(outcome, StopIteration):
            end = bytes(answer).index(b"\r\n\r\n") + 4
            assert link.left == answer[end:]
            assert outcome.value[0] == int(answer[9:12])
        else:
            assert isinstance(outcome, DialFailure), "it waits, though all is there"
            assert outcome.phase == "proxy"
            assert outcome.text.isprintable()
