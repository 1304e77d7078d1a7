"""Ctrl-C on a real terminal: the commands end with 130, without a traceback, and the cursor is back."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import HttpOrigin, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
CTRL_C = b"\x03"


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, *args: str, columns: int = 120) -> None:
        self._leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "keepalive", *args],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
            # The terminal sends the signal, to whatever it controls.
            preexec_fn=_take_terminal,
        )
        os.close(follower)
        self.seen = b""

    def read_until(self, text: bytes) -> None:
        """Read on until ``text`` has been shown."""
        while text not in self.seen:
            chunk = self._read()
            assert chunk, f"{text!r} was not shown: {self.seen!r}"

    def finish(self) -> int:
        """Read the rest; gives the exit code."""
        while self._read():
            pass
        return self.process.wait(10)

    def type(self, text: bytes) -> None:
        os.write(self._leader, text)

    def close(self) -> None:
        os.close(self._leader)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _read(self) -> bytes:
        try:
            chunk = os.read(self._leader, 65536)
        except OSError:  # Linux's way to say that nobody has the terminal open any more
            return b""
        self.seen += chunk
        return chunk


def _take_terminal() -> None:
    os.setsid()
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # opening it makes it the controlling terminal


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def check_ended_well(terminal: Terminal) -> None:
    assert terminal.finish() == 130
    assert b"Traceback" not in terminal.seen
    assert b"Error" not in terminal.seen
    assert terminal.seen.rfind(SHOW) > terminal.seen.rfind(HIDE) >= 0


def test_demo_ends_well(terminals: list[Terminal], backend: str) -> None:
    terminal = Terminal("demo", "--requests", "100000", "--backend", backend)
    terminals.append(terminal)
    terminal.read_until(b"waiting")
    terminal.type(CTRL_C)
    check_ended_well(terminal)
    assert b"Interrupted." in terminal.seen


def test_get_ends_well_and_tells_what_was_done(terminals: list[Terminal], backend: str) -> None:
    with Server(HttpOrigin()) as server:
        target = f"http://127.0.0.1:{server.port}"
        terminal = Terminal(
            "get", "-c", "1", "--backend", backend, f"{target}/", f"{target}/never", f"{target}/"
        )
        terminals.append(terminal)
        server.wait_for(
            lambda server: isinstance(server.behaviour, HttpOrigin) and len(server.behaviour.requests) == 2
        )
        terminal.type(CTRL_C)
        check_ended_well(terminal)
        assert b"Interrupted after 1 of 3 requests." in terminal.seen
        assert b"200: 1" in terminal.seen
        server.wait_for(lambda server: server.connections == 0)


def test_termination_is_as_gentle(backend: str) -> None:
    with Server(HttpOrigin()) as server:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "keepalive",
                "get",
                "--backend",
                backend,
                f"http://127.0.0.1:{server.port}/never",
            ],
            stderr=subprocess.PIPE,
        )
        server.wait_for(lambda server: server.connections == 1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert said == b"Interrupted after 0 of 1 requests.\n"


@pytest.mark.parametrize("args", [("probe", "127.0.0.1:1"), ("get", "http://127.0.0.1:1/"), ("--help",)])
def test_ctrl_c_while_it_loads_gives_no_traceback(args: tuple[str, ...]) -> None:
    # Pauses of all lengths, from the first moment at which Python itself is up to well after the end.
    with ThreadPoolExecutor(4) as threads:
        for number, (said, code) in enumerate(threads.map(partial(interrupted, args), range(14))):
            assert b"Traceback" not in said, (number, said)
            assert code in (0, 1, 130, -signal.SIGINT), (number, said)


def interrupted(args: tuple[str, ...], number: int) -> tuple[bytes, int]:
    """Interrupt the command after a pause; return what it said, and its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOADS, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    with suppress(subprocess.TimeoutExpired):  # unless it was quicker
        process.wait(0.03 * number + 0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    return said, process.returncode


LOADS = """
import sys
from keepalive.__main__ import main
import keepalive.cli.interrupts as early
early.quiet()
sys.stdout.write("up\\n")
sys.stdout.flush()
main()
"""
