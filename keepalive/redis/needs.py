"""Says which extra is missing, before anything is imported that needs it."""

from __future__ import annotations

from importlib import import_module


def check(*packages: str) -> None:
    """Import packages.

    :raises ModuleNotFoundError: one is not installed
    """
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as exc:
            if exc.name != package:
                raise  # it is there, and misses something itself
            msg = f"keepalive.redis needs {package}; install it with: pip install 'keepalive-manager[redis]'"
            raise ModuleNotFoundError(msg, name=package) from None
