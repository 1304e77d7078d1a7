"""``keepalive fleet``: what a fleet holds, and what it may hold."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from keepalive import printable

from .loops import backend_option, run
from .screen import records

if TYPE_CHECKING:
    from keepalive.fleet import FleetStatus


@click.group()
def fleet() -> None:
    """See and set the limits that a fleet keeps in Redis or Valkey."""


def _library() -> Any:
    try:
        from keepalive import fleet as found
    except ImportError as exc:
        text = "coredis is missing; install it with: pip install 'keepalive-manager[fleet]'"
        raise click.ClickException(text) from exc
    return found


@fleet.command("status")
@click.argument("url", metavar="URL")
@click.argument("name", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@backend_option
def show(url: str, name: str, as_json: bool, backend: str) -> None:
    """Show the members of the fleet NAME in the store at URL, their places, who waits, the age of leases.

    URL is like redis://host:6379. The exit code is 1 if the store cannot be reached.
    """
    library, found = _library(), []

    async def ask() -> None:
        found.append(await library.status(url, name))

    _run(backend, ask)
    status: FleetStatus = found[0]
    if as_json:
        click.echo(json.dumps(asdict(status), indent=2))
        return
    for line in _lines(name, status):
        click.echo(printable(line))


@fleet.command("set-limit")
@click.argument("url", metavar="URL")
@click.argument("name", metavar="NAME")
@click.argument("limit", metavar="LIMIT")
@click.option("--key", default=None, metavar="KEY", help="For one key, such as https://api.example.com:443.")
@click.option("--all", "in_all", is_flag=True, help="For all keys together: the fleet's max_open.")
@backend_option
def set_limit(url: str, name: str, limit: str, key: str | None, in_all: bool, backend: str) -> None:
    """Set the LIMIT of each key of the fleet NAME, whatever its members were given; "none" takes that back.

    Members that hold more come down to it within one lease.
    """
    if key is not None and in_all:
        raise click.UsageError("--key and --all exclude each other")
    if limit != "none" and not (limit.isdecimal() and limit.isascii() and 0 < int(limit) < 10**9):
        raise click.UsageError(f"LIMIT must be a number from 1 on, or none, not {limit!r}")
    library = _library()
    place = "" if in_all else "*" if key is None else key

    async def tell() -> None:
        await library.set_limit(url, name, None if limit == "none" else int(limit), place)

    _run(backend, tell)


def _run(backend: str, job: Any) -> None:
    wrong: list[ValueError] = []

    async def checked() -> None:
        try:
            await job()
        except ValueError as exc:
            wrong.append(exc)

    code = run(backend, checked)
    if wrong:
        raise click.UsageError(printable(str(wrong[0])))
    if code:
        click.get_current_context().exit(code)


def _lines(name: str, status: FleetStatus) -> list[str]:
    """Set what is known as text."""
    total = next((key for key in status.keys if not key.key), None)
    held, waiting = (0, 0) if total is None else (total.held, total.waiting)
    lines = [f"Fleet {name}: {len(status.members)} members hold {held} places, {waiting} requests wait"]
    if status.quiet:
        lines.append(f"The store is new or was restarted: nothing new for another {status.quiet:.1f} s")
    for key, limit in sorted(status.limits.items()):
        lines.append(f"Set for {_named(key)}: {limit}")
    if status.members:
        rows = [
            (
                str(one.fence),
                str(one.held),
                str(one.waiting),
                f"{one.lease_left:.1f} s",
                "absent" if one.absent else "",
                one.label,
            )
            for one in status.members
        ]
        head = ("fence", "places", "waiting", "lease left", "", "member")
        lines += ["", *records(head, rows, frozenset({0, 1, 2, 3}))]
    if status.keys:
        each = [
            (
                str(one.held),
                "none" if one.limit is None else str(one.limit),
                str(one.waiting),
                str(one.members),
                _named(one.key),
            )
            for one in status.keys
        ]
        lines += [
            "",
            *records(("places", "limit", "waiting", "members", "key"), each, frozenset({0, 1, 2, 3})),
        ]
    return lines


def _named(key: str) -> str:
    return {"": "all keys together", "*": "every other key"}.get(key, key)
