"""The routing tables against a model that remembers everything in lists."""

from __future__ import annotations

import random

import pytest

from keepalive.base.types import NEVER
from keepalive.sip.core.flow import Flow, HostPort
from keepalive.sip.core.routes import TRANSACTION_MEMORY, Routes


class Conn(Flow):
    def __init__(self, peer: HostPort, last: float = 0.0, names: tuple[str | None, ...] = (None,)) -> None:
        super().__init__("tcp", peer, last)
        self.names = names

    def serves(self, name: str | None) -> bool:
        return name in self.names


def waiting(conn: Conn) -> set[bytes]:
    return conn.unanswered or set()


HERE, THERE = ("192.0.2.1", 5060), ("192.0.2.2", 5060)


def table(*conns: Conn, max_tid: int = 30) -> Routes[Conn]:
    routes: Routes[Conn] = Routes(max_tid)
    for conn in conns:
        routes.add(conn)
    return routes


def test_response_goes_back_where_its_request_came_in() -> None:
    # heritage sip 1.40.
    one, other = Conn(HERE), Conn(THERE)
    routes = table(one, other)
    routes.add_transaction(one, b"a", awaits=True)
    assert routes.for_response(b"a", THERE) is one
    assert routes.for_response(b"b", THERE) is None


def test_repeated_key_is_refreshed_not_entered_twice() -> None:
    # heritage sip 5.6: a retransmission's entry went when the older one of the same key did.
    one = Conn(HERE)
    routes = table(one, max_tid=3)
    for key in (b"t", b"t", b"u", b"v"):
        routes.add_transaction(one, key, awaits=True)
    assert [routes.for_response(key, None) for key in (b"t", b"u", b"v")] == [one] * 3
    routes.add_transaction(one, b"t", awaits=True)
    routes.add_transaction(one, b"w", awaits=True)
    assert one.transaction_keys == [b"v", b"t", b"w"]
    assert routes.for_response(b"u", None) is None


def test_connection_takes_only_its_own_entries_along() -> None:
    # heritage sip 5.7: the same key on two connections.
    one, other, third = Conn(HERE), Conn(THERE), Conn(HERE)
    routes = table(one, other, third)
    for conn in (one, other, third):
        routes.add_transaction(conn, b"a", awaits=True)
    assert routes.for_response(b"a", THERE) is other
    assert routes.for_response(b"a", None) is third
    routes.remove(one)
    assert routes.for_response(b"a", THERE) is other
    routes.remove(other)
    assert routes.for_response(b"a", THERE) is third
    routes.remove(third)
    assert routes.for_response(b"a", THERE) is None
    assert routes.per_address == {}


def test_of_several_addresses_none_is_guessed() -> None:
    one, other, again = Conn(HERE), Conn(THERE), Conn((HERE[0], 7))
    routes = table(one, other, again)
    for conn in (one, other):
        routes.add_transaction(conn, b"a", awaits=True)
    assert routes.for_response(b"a", ("192.0.2.3", 5060)) is None
    assert routes.for_response(b"a", (THERE[0], 9)) is other
    assert routes.for_response(b"a", HERE, HERE[0]) is one
    routes.add_transaction(again, b"a", awaits=True)
    assert routes.for_response(b"a", (HERE[0], 9)) is again
    assert routes.for_response(b"a", None, HERE[0]) is again
    routes.remove(other)
    assert routes.for_response(b"a", ("192.0.2.3", 5060)) is again  # all are of one peer
    # That one connection came to an end is no reason for taking another peer's.
    assert routes.for_response(b"a", THERE, THERE[0]) is None
    assert routes.for_response(b"b", HERE, HERE[0]) is None


def test_most_recently_used_connection_of_the_right_name() -> None:
    # heritage sip 5.11, 5.18.
    old, new, named = Conn(HERE, 1.0), Conn(HERE, 2.0), Conn(HERE, 3.0, ("a.test",))
    routes = table(old, new, named)
    assert routes.for_request(HERE, None) is new
    old.last_used = 5.0
    assert routes.for_request(HERE, None) is old
    assert routes.for_request(HERE, "a.test") is named
    assert routes.for_request(HERE, "b.test") is None
    assert routes.for_request(THERE, None) is None


def test_alias_is_a_second_place() -> None:
    one = Conn(HERE)
    routes = table(one)
    for _ in range(2):
        routes.alias(one, THERE)
        routes.alias(one, HERE)
    assert one.aliases == (THERE,)
    assert routes.for_request(THERE, None) is one
    routes.remove(one)
    assert routes.for_request(THERE, None) is routes.for_request(HERE, None) is None


def test_who_awaits_an_answer_is_counted() -> None:
    one = Conn(HERE)
    routes = table(one, max_tid=2)
    routes.add_transaction(one, b"a", awaits=True)
    routes.add_transaction(one, b"a", awaits=False)  # the ACK of an INVITE
    assert waiting(one) == {b"a"}
    routes.transaction_answered(one, b"a")
    routes.transaction_answered(one, b"a")
    assert waiting(one) == set()
    for key in (b"b", b"c", b"d"):
        routes.add_transaction(one, key, awaits=True)
    assert waiting(one) == {b"c", b"d"}


def test_answered_transactions_are_forgotten_after_a_time() -> None:
    # heritage sip 3.4.
    one, other = Conn(HERE, 1.0), Conn(THERE, 2.0)
    routes = table(one, other)
    routes.add_transaction(one, b"a", awaits=False)
    assert routes.next() == 1.0 + TRANSACTION_MEMORY
    routes.add_transaction(one, b"b", awaits=True)
    routes.add_transaction(other, b"c", awaits=True)
    assert routes.next() == NEVER
    one.last_used = other.last_used = 10.0
    routes.transaction_answered(other, b"c")
    one.last_used = 11.0
    routes.transaction_answered(one, b"b")
    routes.forget_old(10.0 + TRANSACTION_MEMORY)
    assert (other.transaction_keys, routes.for_response(b"c", None)) == (None, None)
    assert [routes.for_response(key, None) for key in (b"a", b"b")] == [one, one]
    routes.add_transaction(one, b"d", awaits=True)  # one that is open keeps the others too
    routes.forget_old(1000.0)
    assert one.transaction_keys == [b"a", b"b", b"d"]
    routes.remove(one)
    routes.remove(other)
    assert not routes._by_key
    assert not routes._all_answered


@pytest.mark.parametrize("seed", range(20))
def test_walk(seed: int) -> None:
    """Thousands of random steps; the model keeps every arrival in one list."""
    rng = random.Random(seed)
    routes: Routes[Conn] = Routes(5)
    alive: list[Conn] = []
    came: list[tuple[bytes, Conn]] = []
    awaited: set[tuple[bytes, Conn]] = set()
    for step in range(1500):
        choice = rng.random()
        if choice < 0.1 or not alive:
            conn = Conn((f"192.0.2.{rng.randrange(4)}", rng.randrange(2)), last=step)
            routes.add(conn)
            alive.append(conn)
        elif choice < 0.2:
            conn = alive.pop(rng.randrange(len(alive)))
            routes.remove(conn)
            came = [entry for entry in came if entry[1] is not conn]
        elif choice < 0.8:
            conn, key = rng.choice(alive), bytes([rng.randrange(12)])
            awaits = rng.random() < 0.5
            routes.add_transaction(conn, key, awaits=awaits)
            if awaits:
                awaited.add((key, conn))
            came = [*(entry for entry in came if entry != (key, conn)), (key, conn)]
            own = [entry for entry in came if entry[1] is conn]
            if len(own) > 5:
                came.remove(own[0])
        else:
            conn, key = rng.choice(alive), bytes([rng.randrange(12)])
            routes.transaction_answered(conn, key)
            awaited.discard((key, conn))
        awaited &= set(came)
        for number in range(12):
            key = bytes([number])
            on = [conn for known, conn in came if known == key]
            got = routes.for_response(key, None)
            assert (got in on) if on else got is None, f"seed {seed}, step {step}"
        for conn in alive:
            assert waiting(conn) == {key for key, on in awaited if on is conn}
            assert (conn.transaction_keys or []) == [key for key, on in came if on is conn]
    for conn in alive:
        routes.remove(conn)
    assert not routes._by_key
    assert not routes._all_answered
    assert not routes._by_peer
    assert not routes.per_address
