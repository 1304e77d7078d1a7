"""What a manager is given beside its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepalive.base.addresses import BindAddresses
    from keepalive.connect.connector import Connector
    from keepalive.connect.lifecycle import Lifecycle
    from keepalive.resolve.resolver import Resolver

    from .fleet import Fleet
    from .key_settings import KeySettings
    from .observer import Observer


class Options(NamedTuple):
    """What a manager is given beside its limits; see `ConnectionManager`."""

    resolver: Resolver
    connectors: Mapping[str, Connector]
    bind_address: BindAddresses | None
    stagger: float
    max_lifetime: float
    check_after: float
    lifecycles: Mapping[str, Lifecycle[Any]]
    settings: Mapping[Any, KeySettings]
    retire_moved: bool
    reuse_dropped: bool
    observer: Observer | None
    fleet: Fleet | None
