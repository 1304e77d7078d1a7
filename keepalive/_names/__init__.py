"""From host names to addresses: literals, localhost, and look-ups that all askers share."""

from ._dns import DNSResolver
from ._shared import Names
from ._static import StaticResolver
from ._system import SystemResolver

__all__ = ("DNSResolver", "Names", "StaticResolver", "SystemResolver")
