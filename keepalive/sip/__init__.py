"""The sockets of a SIP leg: UDP, TCP and TLS; connections by need; messages whole.

The ancestor is Net::SIP::SocketPool. It carries messages, not transactions: nothing is retransmitted,
no header field is changed.
"""

from .config import SipConfig, SipTLS
from .errors import PoolClosed, SendError, SendTimeout, SipError
from .pool import SocketPool, open_leg
from .source import Source, resolve_host
from .stats import ConnectionInfo, SipStats

__all__ = (
    "ConnectionInfo",
    "PoolClosed",
    "SendError",
    "SendTimeout",
    "SipConfig",
    "SipError",
    "SipStats",
    "SipTLS",
    "SocketPool",
    "Source",
    "open_leg",
    "resolve_host",
)
