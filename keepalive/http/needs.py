"""Says which extra is missing, before anything is imported that needs it."""

from __future__ import annotations

try:
    import httptools  # noqa: F401  # to see whether it is there
except ModuleNotFoundError as exc:
    if exc.name != "httptools":
        raise  # it is there, and misses something itself
    msg = "keepalive.http needs httptools; install it with: pip install 'keepalive-manager[http]'"
    raise ModuleNotFoundError(msg, name="httptools") from None
