"""Many outgoing connections in one task, with plain callbacks: one record per connection, no task each."""

from ._client import MultiClient
from ._events import Disconnected, Error, Event, Failure, Flushed, Initialize, Input, Success, Timeout
from ._filters import BlockFilter, Filter, LengthFilter, LineFilter, StreamFilter, UnitError
from ._peer import Peer
from ._types import ClientClosed, EndReason, OutputFull, PeerState

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
