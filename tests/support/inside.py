"""The inside of a manager, for the few tests that must look there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keepalive import ConnectionManager
    from keepalive.manager.driver import Driver


def driver_of(mgr: ConnectionManager) -> Driver:
    """Return what works behind a manager that has been entered."""
    driver: Driver | None = vars(mgr)["_driver"]
    assert driver is not None, "not entered"
    return driver
