"""Real servers, certificates and checks for tests."""

from tests.support.behaviours import Deaf, Echo, Greeting, Lines, Parting, Silent
from tests.support.http import Answer, HttpOrigin, answer
from tests.support.peer import Behaviour, Peer
from tests.support.peers import Nginx, nginx, require_peer
from tests.support.server import Server
from tests.support.sockets import Backlog, full_backlog, has_ipv6, refused_path, refused_port
from tests.support.tls import Authority

__all__ = (
    "Answer",
    "Authority",
    "Backlog",
    "Behaviour",
    "Deaf",
    "Echo",
    "Greeting",
    "HttpOrigin",
    "Lines",
    "Nginx",
    "Parting",
    "Peer",
    "Server",
    "Silent",
    "answer",
    "full_backlog",
    "has_ipv6",
    "nginx",
    "refused_path",
    "refused_port",
    "require_peer",
)
