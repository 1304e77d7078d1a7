"""The old place of `turns`."""

from tests.support.waiting import turns

__all__ = ("turns",)
