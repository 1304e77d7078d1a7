"""What can go wrong with a message."""

from __future__ import annotations

import errno
import os

from keepalive.base.text import printable
from keepalive.errors import KeepaliveError

__all__ = ("PoolClosed", "SendError", "SendTimeout", "SipError")


class SipError(KeepaliveError):
    """The root of this package's own errors."""


class SendError(SipError, OSError):
    """A message was not sent, or not all of it.

    :ivar reason: the phase or cause: "resolve", "bind", "connect", "tls", "send", "size", "queue", or why the
        connection ended ("peer", "reset", "silent", "expired", "closed", "shutdown", "framing", ...)
    :ivar error_num: the errno, or None where there is none (a certificate that is not trusted, for example)
    :ivar error_str: what went wrong, for people
    :ivar where: the destination, for people
    """

    def __init__(self, where: str, reason: str, error_num: int | None, error_str: str) -> None:
        where, error_str = printable(where), printable(error_str)
        super().__init__(error_num, error_str)
        self.where = where
        self.reason = reason
        self.error_num = error_num
        self.error_str = error_str

    def __str__(self) -> str:
        number = "" if self.error_num is None else f" (errno {self.error_num})"
        return f"{self.where}: {self.reason}: {self.error_str}{number}"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.where, self.reason, self.error_num, self.error_str)


class SendTimeout(SendError, TimeoutError):
    """A time ran out, that for connecting mostly; ``reason`` says which. ``error_num`` is ETIMEDOUT."""


class PoolClosed(SipError):
    """The pool has been closed."""


def send_error(where: str, reason: str, number: int | None, text: str | None = None) -> SendError:
    """Make the error for an errno, or a text, or both."""
    kind = SendTimeout if number == errno.ETIMEDOUT else SendError
    return kind(where, reason, number, text or (os.strerror(number) if number else reason))
