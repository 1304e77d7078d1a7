"""Limits of single keys, hosts and schemes, beside those of the whole manager."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from keepalive.base import arguments
from keepalive.base.hostname import one_spelling
from keepalive.base.types import NEVER
from keepalive.connect.lifecycle import HookNames
from keepalive.pool.states import KeyLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keepalive.base.types import Key
    from keepalive.connect.lifecycle import Lifecycle
    from keepalive.pool.states import Limits

    Place = str | tuple[str, str] | tuple[str, str, int]
    """A scheme; scheme and host; scheme, host and port: as the first parts of a key."""

__all__ = ("KeySettings",)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """What differs for some keys; None means: as for all others.

    :ivar max_per_host: connections of each such key, > 0
    :ivar min_idle: connections that are kept ready, opened and set up, within free room; those that
        near their `max_lifetime` are replaced before they end. None with `keep_alive` 0
    :ivar keep_alive: seconds that an idle connection is kept, unless `min_idle` needs it
    :ivar max_lifetime: seconds from its opening to its end
    :ivar max_uses: how many times it is handed out
    :ivar open_when: from 0 to 1: when a larger part of the shares of each shared connection is lent, one more
        is opened, if there is room, and the next requests go to it; None: when all shares are lent
    :ivar check_after: seconds of idleness after which the life cycle's `check` is asked
    """

    max_per_host: int | None = None
    min_idle: int | None = None
    keep_alive: float | None = None
    max_lifetime: float | None = None
    max_uses: int | None = None
    open_when: float | None = None
    check_after: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        :raises TypeError, ValueError: the message names the setting
        """
        for name in ("max_per_host", "max_uses"):
            arguments.count(name, getattr(self, name), least=1)
        if self.min_idle is not None:
            arguments.whole("min_idle", self.min_idle, least=0, most=65535)
        for name in ("keep_alive", "check_after"):
            arguments.seconds(name, getattr(self, name))
        arguments.positive_seconds("max_lifetime", self.max_lifetime)
        arguments.part_of_one("open_when", self.open_when)


def checked_settings(value: Mapping[Any, KeySettings] | None) -> dict[Any, KeySettings]:
    """Check a mapping of schemes, hosts and keys to settings."""
    if value is None:
        return {}
    if not hasattr(value, "items"):
        msg = f"settings must map schemes, hosts or keys to KeySettings, not {value!r}"
        raise TypeError(msg)
    checked: dict[Any, KeySettings] = {}
    for place, settings in value.items():
        given: object = settings  # whatever the annotation says
        if not isinstance(given, KeySettings):
            msg = f"settings[{place!r}] must be KeySettings, not {given!r}"
            raise TypeError(msg)
        checked[_checked_place(place)] = given
    return checked


def _checked_place(place: Any) -> Any:
    parts = (place,) if isinstance(place, str) else place
    if not isinstance(parts, tuple) or not 1 <= len(parts) <= 3:
        msg = f"settings are for a scheme, (scheme, host) or (scheme, host, port), not {place!r}"
        raise TypeError(msg)
    for part in parts[:2]:
        arguments.text("each part of settings' keys", part)
    if len(parts) > 2:
        arguments.port_number("the port of settings' keys", parts[2], least=0)
    if len(parts) > 1 and parts[0] != "unix":
        parts = (parts[0], one_spelling(parts[1]), *parts[2:])
    return parts if len(parts) > 1 else parts[0]


class LimitsByKey:
    """Tells the pool what holds for a key: `LimitsOf`.

    :param max_lifetime: the manager's, in seconds
    :param check_after: the manager's, in seconds
    """

    def __init__(
        self,
        settings: Mapping[Any, KeySettings],
        lifecycles: Mapping[str, Lifecycle[Any]],
        max_lifetime: float,
        check_after: float,
    ) -> None:
        self.settings = settings
        self._max_lifetime = max_lifetime
        self._check_after = check_after
        self._hooks = {scheme: HookNames.of(lifecycle) for scheme, lifecycle in lifecycles.items()}

    def __call__(self, key: Key, limits: Limits) -> KeyLimits:
        """Return what holds for a key, where these limits hold for all."""
        found = KeyLimits(limits.max_per_host, limits.keep_alive, limits.max_uses, self._max_lifetime)
        check_after = self._check_after
        for place in (key.scheme, key[:2], key[:3]):
            settings = self.settings.get(place)
            if settings is None:
                continue
            for field in fields(settings):
                given = getattr(settings, field.name)
                if given is not None:
                    setattr(found, field.name, given)
            if settings.check_after is not None:
                check_after = settings.check_after
        if not found.keep_alive:
            found.min_idle = (
                0  # nothing is kept idle: what is opened for it would be closed at once, for ever
            )
        hooks = self._hooks.get(key.scheme)
        found.check_after = check_after if hooks is not None and hooks.check else NEVER
        if hooks is not None:
            found.resets, found.says_goodbye, found.shared = hooks.reset, hooks.closing, hooks.run
        return found

    @property
    def keeps_ready(self) -> bool:
        """Whether connections of some keys are to be kept ready."""
        return any(settings.min_idle for settings in self.settings.values())

    @property
    def kept_ready(self) -> list[tuple[str, str, int]]:
        """The keys, named in full, of which connections are to be kept ready."""
        return [
            place
            for place, settings in self.settings.items()
            if isinstance(place, tuple) and len(place) == 3 and settings.min_idle
        ]
