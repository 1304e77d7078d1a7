"""The store's script, and how calls and answers are written for it."""

from __future__ import annotations

from importlib.resources import files
from math import inf
from typing import TYPE_CHECKING, Any, Final

from .core.words import Reply, Row

if TYPE_CHECKING:
    from .core.words import Call

SERVER: Final = """
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local wall = tonumber(time[1]) + tonumber(time[2]) / 1e6
local epoch = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not epoch then return redis.error_reply('KEEPALIVEEPOCH INFO names no master_replid') end
local publish = function(channel, message) redis.call('PUBLISH', channel, message) end
"""
"""What the script takes from the server: its time, whose data this is, and a way to tell members."""

BODY: Final = files(__package__).joinpath("script.lua").read_text()
SCRIPT: Final = SERVER + BODY


def meta(name: str) -> str:
    """Return the key by which the script finds all that belongs to a fleet."""
    return f"keepalive:{{{name}}}:meta"


def channel(name: str, member: str) -> str:
    """Return where a member is told that it should come."""
    return f"keepalive:{{{name}}}:to:{member}"


def arguments(call: Call, label: str) -> list[str]:
    """Write a call; `label` is what people are shown of the member."""
    terms = call.terms
    found = [
        "call",
        call.member,
        str(call.fence),
        str(call.seq),
        str(call.base),
        "01"[call.whole],
        str(call.members),
        "01"[call.leaves],
        repr(terms.interval),
        repr(terms.lease),
        repr(terms.kept),
        str(terms.weight),
        _limit(terms.max_open),
        label,
    ]
    for claim in call.claims:
        found += (claim.key, _limit(claim.limit), str(claim.held), str(claim.need), str(claim.ask))
    return found


def answer(raw: list[Any]) -> Reply:
    """Read an answer.

    :raises ValueError: it is none of ours
    """
    try:
        status, fence, members, quiet, *flat = raw
        rows = [
            Row(
                _text(key), int(held), int(target), bool(flags & 1), bool(flags & 2), float(limit), int(total)
            )
            for key, held, target, flags, limit, total in zip(*[iter(flat)] * 6, strict=True)
        ]
        return Reply(_text(status), int(fence), int(members), float(quiet), rows)
    except (TypeError, ValueError) as error:
        msg = "the store's answer is not one of this fleet's script"
        raise ValueError(msg) from error


def _limit(limit: float) -> str:
    return "inf" if limit == inf else str(int(limit))


def _text(raw: str | bytes) -> str:
    return raw.decode() if isinstance(raw, bytes) else raw
