"""Says which extra is missing, before anything is imported that needs it."""

from __future__ import annotations

try:
    import hiredis  # noqa: F401  # to see whether it is there
except ModuleNotFoundError as exc:
    if exc.name != "hiredis":
        raise  # it is there, and misses something itself
    msg = "keepalive.redis needs hiredis; install it with: pip install 'keepalive-manager[redis]'"
    raise ModuleNotFoundError(msg, name="hiredis") from None
