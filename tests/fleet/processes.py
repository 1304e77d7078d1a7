"""Members as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


class MemberProcess:
    """One member; `served` counts what it says."""

    def __init__(self, backend: str, url: str, port: int, **keywords: object) -> None:
        argv = [
            sys.executable,
            "-m",
            "tests.fleet.member",
            backend,
            url,
            str(port),
            "8",
            json.dumps(keywords),
        ]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.served = 0
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        assert self.process.stdout is not None
        for _ in self.process.stdout:
            self.served += 1

    def close(self) -> None:
        """Kill it; a member that dies so says nothing to anybody."""
        self.process.kill()
        self.process.wait()
        self._thread.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
