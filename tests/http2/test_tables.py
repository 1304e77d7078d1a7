"""Header compression that remembers says exactly what the library's own says."""

from __future__ import annotations

import random

import pytest
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hpack.exceptions import HPACKError

from keepalive.http.http2.core.tables import RememberingDecoder, RememberingEncoder

SEEDS = range(20)


def fields(dice: random.Random) -> list[tuple[bytes, bytes]]:
    """A few fields, often the same ones; long ones push others out of the table."""
    names = [b":status", b"date", b"server", b"x-a", b"x-b", b"authorization", b"content-length"]
    chosen = dice.sample(names, dice.randint(1, 5))
    made: list[tuple[bytes, bytes]] = []
    for name in chosen:
        value = dice.choice([b"200", b"a", b"b" * 50, b"c" * dice.choice([1, 700, 1500])])
        kind = NeverIndexedHeaderTuple if name == b"authorization" else HeaderTuple
        made.append(kind(name, value))
    return made


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_are_decoded_as_by_the_librarys_own(seed: int) -> None:
    dice = random.Random(seed)
    encoder, ours, theirs = Encoder(), RememberingDecoder(100_000), Decoder(100_000)
    heads = [fields(dice) for _ in range(6)]
    for step in range(300):
        if dice.random() < 0.03:
            encoder.header_table_size = dice.choice([0, 100, 1000, 4096])
        block = encoder.encode(dice.choice(heads), huffman=dice.random() < 0.5)
        assert list(ours.decode(block, raw=True)) == list(theirs.decode(block, raw=True)), step
        assert ours.header_table.dynamic_entries == theirs.header_table.dynamic_entries, step


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_without_a_use_of_the_table_change_it_each_time(seed: int) -> None:
    """As nginx's: each block brings entries for the table, and refers to none."""
    dice = random.Random(seed)
    ours, theirs = RememberingDecoder(100_000), Decoder(100_000)
    blocks = [b"".join(Encoder().encode([field]) for field in fields(dice)) for _ in range(6)]
    referring = [bytes([0x80 | n]) for n in range(62, 70)]
    for _ in range(300):
        block = dice.choice(blocks + referring)
        try:
            wanted = list(theirs.decode(block, raw=True))
        except HPACKError:
            with pytest.raises(HPACKError):
                ours.decode(block, raw=True)
        else:
            assert list(ours.decode(block, raw=True)) == wanted
        assert ours.header_table.dynamic_entries == theirs.header_table.dynamic_entries


@pytest.mark.parametrize("seed", SEEDS)
def test_fields_are_encoded_as_by_the_librarys_own(seed: int) -> None:
    dice = random.Random(seed)
    ours, theirs = RememberingEncoder(), Encoder()
    heads = [fields(dice) for _ in range(6)]
    for step in range(300):
        if dice.random() < 0.03:
            ours.header_table_size = theirs.header_table_size = dice.choice([0, 100, 1000, 4096])
        head = dice.choice(heads)
        assert ours.encode(head) == theirs.encode(head), step
        assert ours.header_table.dynamic_entries == theirs.header_table.dynamic_entries, step


def test_what_is_remembered_is_bounded() -> None:
    ours, encoder = RememberingDecoder(100_000), Encoder()
    for n in range(1000):
        block = encoder.encode([NeverIndexedHeaderTuple(b"x", b"%d" % n)])
        assert list(ours.decode(block, raw=True)) == [(b"x", b"%d" % n)]
