"""The connectors that come with the package."""

from ._plain import TCPConnector, UnixConnector
from ._proxy import HTTPProxyConnector
from ._socks import SOCKS5Connector
from ._tls import TLSConnector

__all__ = ("HTTPProxyConnector", "SOCKS5Connector", "TCPConnector", "TLSConnector", "UnixConnector")
