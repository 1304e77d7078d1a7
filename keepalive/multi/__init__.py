"""Many outgoing connections in one task, with plain callbacks: one record per connection, no task each."""

from .client import MultiClient
from .events import Disconnected, Error, Event, Failure, Flushed, Initialize, Input, Success, Timeout
from .filters import BlockFilter, Filter, LengthFilter, LineFilter, StreamFilter, UnitError
from .peer import Peer
from .types import ClientClosed, EndReason, OutputFull, PeerState

__all__ = (
    "BlockFilter",
    "ClientClosed",
    "Disconnected",
    "EndReason",
    "Error",
    "Event",
    "Failure",
    "Filter",
    "Flushed",
    "Initialize",
    "Input",
    "LengthFilter",
    "LineFilter",
    "MultiClient",
    "OutputFull",
    "Peer",
    "PeerState",
    "StreamFilter",
    "Success",
    "Timeout",
    "UnitError",
)
