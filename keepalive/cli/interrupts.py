"""Ctrl-C while the program still loads: it ends at once, and without a traceback.

An exception would do no good there: it strikes in the middle of somebody's import, where it may be wrapped or
printed. Once a loop runs, the command ends in good order (see `loops`).
"""

from __future__ import annotations

import os
import signal

_loading = True


def quiet() -> None:
    """End without a word at Ctrl-C, until `loaded` is called. A program that ignores it goes on doing so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


def loaded() -> None:
    """Have Ctrl-C raise KeyboardInterrupt from now on, where no loop catches it."""
    global _loading
    _loading = False


def _handle(number: int, frame: object) -> None:
    if _loading:
        os._exit(128 + number)
    raise KeyboardInterrupt
