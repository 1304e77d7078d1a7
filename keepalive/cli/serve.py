"""The agent as a command."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from keepalive import agent

from .limits import raise_limit
from .screen import note

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS = 16_384
"""So many descriptors an agent wants at least, if the system allows: borrowers and connections."""


class Serve:
    """One run of `keepalive serve`."""

    def __init__(self, path: str | None, config: Path | None, *, replace: bool) -> None:
        self.path = agent.default_path() if path is None else path
        self._config = config
        self._replace = replace

    async def run(self) -> None:
        """Serve until a signal ends it."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
        raise_limit(CLIENTS)
        service = agent.Service(self.path, self._config, replace=self._replace, ready=self._tell)
        await service.run()

    def _tell(self) -> None:
        note(f"Serving at {self.path}.")
