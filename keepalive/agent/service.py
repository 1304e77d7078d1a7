"""The agent as a service: its socket, its signals, its place in the system."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

import anyio

from . import systemd
from .config import ConfigError, load_config, own_user
from .errors import AgentError
from .estate import inherit, settle
from .handover import surrender
from .server import Agent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .config import Config
    from .estate import Estate
    from .peer import Peer

logger = logging.getLogger("keepalive")

_BACKLOG = 4096


def default_path() -> str:
    """Return where an agent listens unless it is told otherwise: in the user's own run-time folder."""
    folder = os.environ.get("XDG_RUNTIME_DIR")
    return f"{folder}/keepalive.sock" if folder else f"/run/user/{os.geteuid()}/keepalive.sock"


class Service:
    """One run of an agent, from its socket to its end.

    :param path: where to listen, and whose place to take
    :param config_path: a TOML file, see `load_config`; without one the agent serves its own user only
    :param replace: take the place of the agent that listens there
    :param ready: called when it serves
    """

    def __init__(
        self,
        path: str,
        config_path: str | Path | None = None,
        *,
        replace: bool = False,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._config_path = config_path
        self._replace = replace
        self._ready = ready
        self._succeeded = False
        self._bound: tuple[int, int] | None = None

    def _config(self) -> Config:
        return own_user() if self._config_path is None else load_config(self._config_path)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP has the configuration read again.

        At the end it waits for what is lent, for the configuration's `drain_timeout`; a second signal does
        not. The same holds when another agent takes its place, but then only TLS connections are left here.

        :raises AgentError: an agent listens there already, or there is none whose place could be taken
        :raises ConfigError: the configuration is wrong
        :raises OSError: the socket cannot be made
        """
        config = self._config()
        estate = inherit(self._path) if self._replace else None
        try:
            await self._serve(config, estate)
        finally:
            if estate is not None:
                estate.close()
            self._unlink()

    async def _serve(self, config: Config, estate: Estate | None) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            inherited = frozenset() if estate is None else estate.schemes()
            async with Agent(config, self._sockets(config, estate), inherited) as agent:
                async with anyio.create_task_group() as group:
                    agent.on_succeed = lambda heir: self._give_way(agent, heir, group.cancel_scope)
                    if estate is not None:
                        await settle(agent, estate)
                    systemd.notify("READY=1", f"MAINPID={os.getpid()}")
                    self._ready()
                    async for number in signals:
                        if number != signal.SIGHUP:
                            break
                        self._reload(agent)
                    group.cancel_scope.cancel()
                await self._drain(agent, signals)

    def _sockets(self, config: Config, estate: Estate | None) -> list[socket.socket]:
        sockets = systemd.activated()
        if estate is not None:
            self._bound = _file(self._path) if estate.owns_file else None
            return sockets + estate.listeners
        return sockets or [self._listen(config)]

    async def _drain(self, agent: Agent, signals: object) -> None:
        systemd.notify("STOPPING=1")
        async with anyio.create_task_group() as group:
            group.start_soon(self._hurry, signals, group.cancel_scope)
            await agent.drain(agent.config.drain_timeout)
            group.cancel_scope.cancel()

    @staticmethod
    async def _hurry(signals: object, scope: anyio.CancelScope) -> None:
        async for number in signals:  # type: ignore[attr-defined]  # anyio's receiver has no public type
            if number != signal.SIGHUP:
                scope.cancel()

    def _reload(self, agent: Agent) -> None:
        systemd.notify("RELOADING=1", systemd.now())
        try:
            agent.reload(self._config())
        except (ConfigError, OSError) as exc:
            logger.error("the configuration stays as it was: %s", exc)  # what is wrong is told
        else:
            logger.info("the configuration was read again")
        systemd.notify("READY=1")

    def _give_way(self, agent: Agent, heir: Peer, scope: anyio.CancelScope) -> None:
        if surrender(agent, heir, owns_file=self._bound is not None):
            self._succeeded = True
            logger.info("another agent has taken this one's place")
            scope.cancel()
        else:
            logger.warning("an agent that was to take this one's place has failed; all stays as it was")

    # -- the socket -----------------------------------------------------------------------------------

    def _listen(self, config: Config) -> socket.socket:
        """Make the socket. Nobody can connect before its mode is right: it does not listen until then."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self._path.startswith("@"):
                sock.bind("\0" + self._path[1:])  # an abstract one has no file, and so no mode
            else:
                self._clear_away()
                sock.bind(self._path)
                os.chmod(self._path, config.socket_mode)
                if config.socket_group is not None:
                    os.chown(self._path, -1, config.socket_group)
                self._bound = _file(self._path)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def _clear_away(self) -> None:
        """Remove the file of an agent that has ended without doing so."""
        if not os.path.exists(self._path):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(1)
            number = sock.connect_ex(self._path)
        if number == errno.ECONNREFUSED:
            os.unlink(self._path)
        elif number != errno.ENOENT:
            msg = f"an agent listens at {self._path} already; take its place with --replace"
            raise AgentError(msg)

    def _unlink(self) -> None:
        """Remove the socket's file, if it is this agent's, and it was the last to listen there."""
        if not self._succeeded and self._bound is not None and _file(self._path) == self._bound:
            os.unlink(self._path)


def _file(path: str) -> tuple[int, int] | None:
    """Say which file it is; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
