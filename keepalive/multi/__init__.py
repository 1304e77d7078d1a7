"""Many outgoing connections in one task, with plain callbacks: one record per connection, no task each."""

from .client import MultiClient
from .core.filters import BlockFilter, Filter, LengthFilter, LineFilter, StreamFilter, UnitError
from .core.states import ClientClosed, EndReason, OutputFull, PeerState
from .events import Disconnected, Error, Event, Failure, Flushed, Initialize, Input, Success, Timeout
from .peer import Peer

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
