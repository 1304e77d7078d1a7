"""The commands and their options."""

from __future__ import annotations

import errno
import math
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from keepalive import printable
from keepalive.http import InvalidURL, parse_url

from .demo import Demo
from .fetch import GetOptions
from .fleet import fleet
from .get import Get
from .limits import raise_limit
from .loops import backend_option, run
from .probe import BadRange, Probe, ProbeOptions, parse_span
from .screen import complain, note
from .sip import PingOptions, SipPing, parse_target


class Finite(click.FloatRange):
    """A range of numbers without "inf" and "nan"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it as click's own type does, and then look closer."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class UsageProblem(click.ClickException):
    """Wrong input; told in one line, without the usage text."""

    exit_code = 2


class Commands(click.Group):
    """Commands that end as a shell expects at Ctrl-C outside a loop, and when the output cannot go out."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)
        except OSError as exc:
            if exc.errno == errno.EPIPE:
                raise  # click ends quietly: who reads has seen enough
            raise click.ClickException(printable(str(exc))) from exc


# Options of several commands.
number = partial(click.option, type=click.IntRange(min=1), show_default=True)
seconds = partial(click.option, type=Finite(min=0, min_open=True), show_default=True, metavar="SECONDS")
insecure_option = click.option("--insecure", is_flag=True, help="Do not verify TLS certificates.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keepalive-manager", prog_name="keepalive")
def cli() -> None:
    """Show a connection manager at work, on an embedded server or on real URLs."""


cli.add_command(fleet)


@cli.command()
@number("--requests", default=300, help="How many GETs to send.")
@click.option(
    "--setup-delay",
    type=Finite(min=0, max=1000),
    default=30.0,
    show_default=True,
    metavar="MS",
    help="Milliseconds that opening a connection costs, simulated by the origin.",
)
@backend_option
def demo(requests: int, setup_delay: float, backend: str) -> None:
    """Show the manager at work on an embedded origin server.

    The same GETs run twice under the same limits: with connections reused, and with a new one for each.
    """
    job = Demo(requests, setup_delay / 1000)
    job.print_intro()
    code = run(backend, job.run)
    if code:
        click.echo("Interrupted.", err=True)
        sys.exit(code)
    if not job.print_table():
        raise click.ClickException("a limit was exceeded; please report this")


@cli.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@number("-n", "times", default=1, help="GETs for each URL.")
@number("-c", "concurrency", default=4, help="GETs at a time.")
@number("--max-per-host", default=None, help="Connections for each host at most.  [default: as many as -c]")
@seconds("--timeout", default=30.0, help="For one GET, from waiting for a connection to the last byte.")
@insecure_option
@json_option
@backend_option
def get(
    urls: tuple[str, ...],
    times: int,
    concurrency: int,
    max_per_host: int | None,
    timeout: float,
    insecure: bool,
    as_json: bool,
    backend: str,
) -> None:
    """Fetch URLs (http, https) through one manager and count what it saved.

    Bodies are read and thrown away; redirects are counted, not followed. The exit code is 1 if a GET got
    no answer, whatever the status of the others.
    """
    try:
        for url in urls:
            parse_url(url)
    except InvalidURL as exc:
        raise UsageProblem(str(exc)) from exc
    raise_limit(min(concurrency, times * len(urls)))
    try:
        job = Get(GetOptions(urls, times, concurrency, max_per_host or concurrency, timeout, insecure))
    except (ValueError, ImportError) as exc:
        raise UsageProblem(f"a proxy of the environment: {exc}") from exc
    code = run(backend, job.run)
    for line in job.error_lines():
        complain(line)
    for line in job.notes:
        note(f"Note: {line}")
    if code:
        click.echo(f"Interrupted after {job.tally.done} of {job.tally.wanted} requests.", err=True)
    if as_json:
        click.echo(job.as_json())
    elif job.tally.latencies:
        job.print_table()
    sys.exit(code or (1 if job.tally.errors else 0))


@cli.command("sip-ping")
@click.argument("target", metavar="HOST[:PORT]")
@click.option(
    "--proto",
    type=click.Choice(("udp", "tcp", "tls")),
    default="udp",
    show_default=True,
    help="The transport.",
)
@number("-n", "count", default=1, help="OPTIONS to send.")
@seconds("--interval", type=Finite(min=0), default=1.0, help="Between two of them.")
@seconds("--timeout", default=5.0, help="For each, from the name to the answer.")
@insecure_option
@backend_option
def sip_ping(
    target: str, proto: str, count: int, interval: float, timeout: float, insecure: bool, backend: str
) -> None:
    """Send SIP OPTIONS to a server and report answers and times.

    Any final response counts as an answer. The exit code is 1 if one did not come. Over UDP nothing is
    sent twice: what is lost is reported as lost.
    """
    try:
        host, port = parse_target(target, proto)
    except ValueError as exc:
        raise UsageProblem(str(exc)) from exc
    job = SipPing(PingOptions(host, port, proto, count, interval, timeout, insecure))
    code = run(backend, job.run)
    job.print_sum()
    sys.exit(code or (0 if len(job.times) == count else 1))


@cli.command()
@click.argument("targets", metavar="HOST[:PORTS]...", nargs=-1, required=True)
@number("--concurrency", default=100, help="Ports to try at a time.")
@seconds("--timeout", default=3.0, help="For connecting to one port.")
@seconds("--wait", default=1.0, help="For the first line of an open one, from connecting to its end.")
@click.option(
    "--send", default="", metavar="TEXT", help=r"What to say to an open port; \r, \n, \t, \xHH as in Python."
)
@json_option
@backend_option
def probe(
    targets: tuple[str, ...],
    concurrency: int,
    timeout: float,
    wait: float,
    send: str,
    as_json: bool,
    backend: str,
) -> None:
    """See which ports of hosts answer, how fast, and with what first line.

    PORTS is like 22,80,8000-8080, by default 1-1024; an IPv6 address with ports is written [::1]:22. The
    exit code is 1 if no port was open, or if some could not be asked: a name without an address, a want of
    descriptors. Probe only hosts that are yours, or whose owners agree.
    """
    try:
        spans = [parse_span(target) for target in targets]
    except BadRange as exc:
        raise UsageProblem(str(exc)) from exc
    try:
        said = send.encode().decode("unicode_escape").encode("latin-1")
    except UnicodeError as exc:
        raise UsageProblem(f"--send {send!r}: {exc}") from exc
    raise_limit(min(concurrency, sum(map(len, spans))))
    job = Probe(ProbeOptions(spans, concurrency, timeout, wait, said))
    code = run(backend, job.run)
    for line in job.error_lines():
        complain(line)
    if code:
        click.echo(f"Interrupted after {job.done} of {job.wanted} ports.", err=True)
    if as_json:
        click.echo(job.as_json())
    else:
        for line in job.table():
            click.echo(line)
    sys.exit(code or (0 if job.found and not job.unasked else 1))


@cli.command()
@click.option(
    "--socket",
    "path",
    metavar="PATH",
    default=None,
    help="Where to listen; @NAME is an abstract socket.  [default: in the user's run-time folder]",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A TOML file that says who may reach what.  [default: only this user, and all that he could reach]",
)
@click.option("--replace", is_flag=True, help="Take the place of the agent that listens there.")
@backend_option
def serve(path: str | None, config: Path | None, replace: bool, backend: str) -> None:
    """Own the connections of this machine and lend them to its processes (keepalive.agent).

    SIGTERM ends it when all that is lent has come back, SIGHUP has it read its configuration again.
    """
    try:
        from .serve import Serve
    except ModuleNotFoundError as exc:
        if exc.name != "msgspec":
            raise
        raise click.ClickException(str(exc)) from exc
    job = Serve(path, config, replace=replace)
    try:
        run(backend, job.run, signals=False)
    except BaseExceptionGroup as group:
        wrong, other = group.split(ValueError)
        if wrong is None or other is not None:
            raise
        raise UsageProblem(printable(str(wrong.exceptions[0]))) from group
