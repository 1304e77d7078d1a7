"""What an observer may be told: the grammar of its events, checked over a whole story."""

from __future__ import annotations

from typing import Any

# What may follow what, for one connection. A connection reserved for a request that then goes away
# is given on without a word, so that "idle" may follow "idle" and "lent" may follow "lent".
CONNECTION = {
    "": {"opening"},
    "opening": {"opened", "attempt_failed", "attempt_aborted"},
    "opened": {"lent", "idle", "closed"},
    "idle": {"idle", "lent", "closed"},
    "lent": {"idle", "lent", "closed"},
}
# The same for one request; one that is served at once is never queued.
REQUEST = {
    "": {"queued", "lent", "failed", "cancelled"},
    "queued": {"lent", "failed", "cancelled"},
}


def check_story(events: list[tuple[Any, ...]]) -> None:
    """See that every connection and every request has one complete life."""
    connections: dict[int, str] = {}
    requests: dict[int, str] = {}
    keys: dict[int, object] = {}
    for name, key, number, *details in events:
        if name in ("queued", "failed", "cancelled"):
            step(requests, number, name, REQUEST)
            continue
        step(connections, number, name, CONNECTION)
        assert keys.setdefault(number, key) == key
        if name == "lent":
            step(requests, details[0], name, REQUEST)
    for number, state in connections.items():
        assert state in ("attempt_failed", "attempt_aborted", "closed"), f"connection {number} ended {state}"
    for number, state in requests.items():
        assert state != "queued", f"request {number} was never answered"
    assert sorted(requests) == list(range(1, len(requests) + 1))


def step(lives: dict[int, str], number: int, name: str, grammar: dict[str, set[str]]) -> None:
    """Go on in one life."""
    before = lives.get(number, "")
    assert name in grammar.get(before, ()), f"{name} after {before or 'nothing'} for number {number}"
    lives[number] = name
