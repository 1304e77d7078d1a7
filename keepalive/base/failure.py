"""Why an attempt failed, in words that the pool and users understand."""

from __future__ import annotations

import ssl
from asyncio.exceptions import CancelledError
from typing import Final

from anyio import BrokenResourceError as BrokenResourceError  # what links raise, for who decides

from .text import printable

_PLAIN = {
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer does not speak TLS",
    "UNEXPECTED_EOF_WHILE_READING": "the peer closed the connection in the midst of the handshake",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer refused the handshake",
    "TLSV1_UNRECOGNIZED_NAME": "the peer does not know this server name",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer refused the TLS version",
    "UNSUPPORTED_PROTOCOL": "the peer offers only TLS versions that are refused here",
}
"""What OpenSSL's commonest reasons mean."""


MISTAKES: Final = (Exception, CancelledError)
"""What a callback may raise at its peer's cost: also what it got from asyncio's future of somebody else."""


class DialFailure(Exception):
    """Why an attempt failed: the phase, an errno if there is one, and a text."""

    def __init__(self, phase: str, number: int | None, text: str) -> None:
        text = printable(text)
        super().__init__(phase, number, text)
        self.phase = phase
        self.number = number
        self.text = text


def text_of(exc: Exception) -> str:
    """Say for people what went wrong."""
    text: object = None
    if isinstance(exc, ssl.SSLError):
        # Only OpenSSL's own errors have these attributes, not those that a connector makes itself.
        verdict = getattr(exc, "verify_message", None)
        reason = getattr(exc, "reason", None)
        text = f"certificate verify failed: {verdict}" if verdict else reason
        if not verdict and reason in _PLAIN:
            text = f"{_PLAIN[reason]} ({reason})"
    if not text and isinstance(exc, OSError):
        text = exc.strerror
    try:
        return printable(str(text or exc)) or type(exc).__name__
    except Exception:  # a foreign connector may raise anything, and the request must have its answer
        return type(exc).__name__
