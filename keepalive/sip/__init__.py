"""The sockets of a SIP leg: UDP, TCP and TLS; connections by need; messages whole.

The ancestor is Net::SIP::SocketPool. It carries messages, not transactions: nothing is retransmitted,
no header field is changed.
"""

from ._config import SipConfig, SipTLS
from ._leg import open_leg
from ._pool import SocketPool
from ._source import Source
from ._stats import ConnectionInfo, SipStats
from .errors import PoolClosed, SendError, SendTimeout, SipError

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
)
