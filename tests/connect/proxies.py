"""The old place of `HttpProxy`."""

from tests.support.proxies import HttpProxy

__all__ = ("HttpProxy",)
