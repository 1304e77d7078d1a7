"""One pool for all processes of a machine: an agent owns the connections, others borrow them.

`keepalive serve` is the agent. In a borrower, ``async with keepalive.agent.connect(path) as mgr`` is a
manager.
"""

from . import needs  # noqa: F401  # for what it says if something is missing
from .config import Config, ConfigError, load_config, own_user
from .errors import AgentError
from .loan import Request
from .manager import AgentManager, connect
from .server import Agent
from .service import Service, default_path

__all__ = (
    "Agent",
    "AgentError",
    "AgentManager",
    "Config",
    "ConfigError",
    "Request",
    "Service",
    "connect",
    "default_path",
    "load_config",
    "own_user",
)
