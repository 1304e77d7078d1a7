"""Header compression that remembers: most requests on a connection are like others, and so are the answers.

What a block of fields means depends on it and on the table of what came before (RFC 7541). As long as the
table stays as it is, equal blocks mean equal fields, which are cheaper to know again than to decode. No I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from h2.connection import H2Connection
from hpack import Decoder, Encoder
from hpack.table import HeaderTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from h2.config import H2Configuration
    from hpack import HeaderTuple

KNOWN = 64
SHORT = 1024
SWEEP = 64
"""So many streams may have been closed before h2 forgets them; it looks at each."""


class Table(HeaderTable):
    """A table that tells what happens to it.

    :ivar entered: what has entered it, until somebody clears that
    :ivar asked: whether it was asked for what is not in the static part
    """

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[tuple[bytes, bytes]] = []
        self.asked = False

    def add(self, name: bytes, value: bytes) -> None:
        """Add an entry."""
        self.entered.append((name, value))
        super().add(name, value)

    def get_by_index(self, index: int) -> tuple[bytes, bytes]:
        """Return an entry."""
        if index > HeaderTable.STATIC_TABLE_LENGTH:
            self.asked = True
        return super().get_by_index(index)


class RememberingEncoder(Encoder):
    """Knows what it has encoded since its table last changed."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table: Table = Table()
        self._known: dict[tuple[Any, ...], bytes] = {}

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """Encode fields."""
        table = self.header_table
        fields = tuple(headers)
        if table.resized:
            self._known.clear()
        block = self._known.get(fields)
        if block is None:
            resized = table.resized
            table.entered.clear()
            block = super().encode(fields, huffman)
            if table.entered:
                self._known.clear()
            elif not resized and len(block) <= SHORT:
                _remember(self._known, fields, block)
        return block


class RememberingDecoder(Decoder):
    """Knows what it has decoded since its table last changed, and what did not need the table at all.

    The latter may change it nevertheless (nginx never refers to what it lets us keep), and does so again.
    """

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self.header_table: Table = Table()
        self._known: dict[bytes, list[HeaderTuple]] = {}
        self._plain: dict[bytes, tuple[list[HeaderTuple], list[tuple[bytes, bytes]]]] = {}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """Decode a block; only ever used with `raw`."""
        data, table = bytes(data), self.header_table
        known = self._known.get(data)
        if known is not None:
            return known
        plain = self._plain.get(data)
        if plain is not None:
            known, entries = plain
            if entries:
                self._known.clear()
            table.entered.clear()
            for name, value in entries:
                table.add(name, value)
            return known
        size, table.asked = table.maxsize, False
        table.entered.clear()
        known = list(super().decode(data, raw))
        if table.entered or size != table.maxsize:
            self._known.clear()
            if not table.asked and size == table.maxsize and len(data) <= SHORT:
                _remember(self._plain, data, (known, list(table.entered)))
        elif len(data) <= SHORT:
            _remember(self._known, data, known)
        return known


def _remember(known: dict[Any, Any], key: object, value: object) -> None:
    if len(known) >= KNOWN:
        known.clear()
    known[key] = value


class Connection(H2Connection):
    """h2's connection, with these tables, that counts streams only once in a while: we know their number."""

    def __init__(self, config: H2Configuration, max_header_list_size: int) -> None:
        super().__init__(config)
        self.encoder = RememberingEncoder()
        self.decoder = RememberingDecoder(max_header_list_size)
        self._asked = 0

    @property
    def open_outbound_streams(self) -> int:
        """How many streams are open; told, and closed ones forgotten, once in a while."""
        self._asked += 1
        return 0 if self._asked % SWEEP else super().open_outbound_streams
