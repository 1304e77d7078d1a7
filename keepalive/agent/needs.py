"""Says which extra is missing, before anything is imported that needs it."""

from __future__ import annotations

try:
    import msgspec  # noqa: F401  # to see whether it is there
except ModuleNotFoundError as exc:
    if exc.name != "msgspec":
        raise  # it is there, and misses something itself
    msg = "keepalive.agent needs msgspec; install it with: pip install 'keepalive-manager[agent]'"
    raise ModuleNotFoundError(msg, name="msgspec") from None
