"""The inside of managers, clients and pools, for the few tests that must look there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from keepalive import ConnectionManager
    from keepalive.manager.driver import Driver
    from keepalive.multi import MultiClient
    from keepalive.multi.core.dispatch import Dispatch
    from keepalive.sip import SocketPool
    from keepalive.sip.engine import Engine


def driver_of(mgr: ConnectionManager) -> Driver:
    """Return what works behind a manager that has been entered."""
    driver: Driver | None = vars(mgr)["_driver"]
    assert driver is not None, "not entered"
    return driver


def core_of(client: MultiClient) -> Dispatch:
    """Return what decides for a client that has been entered."""
    core: Dispatch = vars(client)["_driver"].core
    return core


def events_of(client: MultiClient) -> Any:
    """Return the queue of a client's events, if it has one."""
    return vars(client)["_events"]


def engine_of(pool: SocketPool) -> Engine:
    """Return what works behind a pool that has been entered."""
    engine: Engine | None = vars(pool)["_engine"]
    assert engine is not None, "not entered"
    return engine
