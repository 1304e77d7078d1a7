"""What to say where a package that comes with an extra is not there."""

from __future__ import annotations

import importlib


def require(package: str, extra: str, user: str) -> None:
    """See to it that a package can be imported, or say which extra brings it.

    :param user: what needs it
    :raises ModuleNotFoundError: it is not installed
    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as exc:
        if exc.name != package:
            raise  # it is there, and misses something itself
        msg = f"{user} needs {package}; install it with: pip install 'keepalive-manager[{extra}]'"
        raise ModuleNotFoundError(msg, name=package) from None
