"""What the store's script does, call by call: the same decisions as `script.lua`, for simulations and tests.

Theory. The store keeps for each member until when its lease runs and which places it holds; before it counts
it prunes those whose lease has run out. Its clock is not the server's, which may jump: it goes on with the
server's time from call to call, never back, and in one go by no more than an interval. So it may go slow,
which only keeps a lease for longer. What a jump ahead may take is added to each lease.

A store that is new, was restarted or has taken over for another one cannot know what the members hold. Its
epoch (Redis: the replication id) tells. For one lease it grants nothing new, believes what members say they
hold, and counts what it finds; then whoever has said nothing holds nothing any more. It stays so for the time
of the fallback, if some of the members that others have known have not come back: they may live on their
share.

A member that goes on with its share when its lease has ended is kept as absent, with that share, for so long.
"""

from __future__ import annotations

from math import inf

from .shares import Need, shares
from .words import ALL, Call, Claim, Reply, Row


class Entry:
    """What one member holds and needs of one key."""

    __slots__ = ("counted", "held", "limit", "need", "told", "turn")

    def __init__(self, limit: float, now: float) -> None:
        self.held = 0
        self.need = 0
        self.counted = 0  # of the need, what the sum over all keys has
        self.limit = limit
        self.turn = now
        self.told = -1  # the target that it was told since it last said something


class KeyPlaces:
    """One key, over all members."""

    __slots__ = ("absent", "contended", "entries", "held", "limits", "settled", "waits")

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.held = 0
        self.absent = 0  # of these, held by members that are absent
        self.waits = 0  # the sum of what members need and do not hold
        self.contended = False
        self.settled = -inf  # when its shares were last told to those who hold or wait
        self.limits: dict[float, int] = {}  # what members know as its limit, and how many of them


class Record:
    """One member."""

    __slots__ = ("absent", "born", "end", "fence", "kept", "keys", "members", "news", "seq", "weight")

    def __init__(self, fence: int) -> None:
        self.fence = fence
        self.seq = 0
        self.end = 0.0
        self.kept = 0.0
        self.weight = 1
        self.members = 1  # the fewest that its share may be divided by
        self.born = -1.0
        self.absent = False
        self.keys: dict[str, None] = {}
        self.news: dict[str, None] = {}


class Store:
    """The state of one fleet, and what a call makes of it.

    :ivar told: the members to be told since the last call that they should come, and for which key
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.keys: dict[str, KeyPlaces] = {}
        self.limits: dict[str, int] = {}  # set for the fleet, whatever its members say
        self.told: list[tuple[str, str]] = []
        self.epoch = ""
        self.clock = 0.0
        self.wall = 0.0
        self.born = 0.0
        self.step = 0.0  # the longest interval of any member
        self.lease = 0.0
        self.kept = 0.0
        self.due = 0.0  # no lease ends before this
        self.fences = 0
        self.expected = 0  # so many members others have known, or this store
        self.confirmed = 0  # so many have called since this store was born

    def call(self, call: Call, wall: float, epoch: str) -> Reply:
        """Take in a member's call."""
        self.told.clear()
        self._advance(call, wall, epoch)
        touched = self._prune()
        record = self.records.get(call.member)
        reply = self._admit(call, record)
        if reply is None:
            record = self.records.get(call.member) or self._join(call)
            reply = self._leave(record, call, touched) if call.leaves else self._serve(record, call, touched)
        self._settle_others(touched, call.member)
        return reply

    def set_limit(self, key: str, limit: int | None) -> None:
        """Set what a key may have, whatever members say; `None` takes that back; "*" is any other key."""
        self.told.clear()
        if limit is None:
            self.limits.pop(key, None)
        else:
            self.limits[key] = limit
        self._settle_others(dict.fromkeys(self.keys, True), "")

    # -- time -----------------------------------------------------------------------------------------

    def _advance(self, call: Call, wall: float, epoch: str) -> None:
        terms = call.terms
        self.step = max(self.step, terms.interval)
        self.lease = max(self.lease, terms.lease)
        self.kept = max(self.kept, terms.kept)
        if self.epoch:
            self.clock += min(max(0.0, wall - self.wall), self.step)
        self.wall = wall
        if epoch != self.epoch:
            self.epoch, self.born = epoch, self.clock
            self.expected, self.confirmed = len(self.records), 0

    def _quiet(self) -> float:
        """Return for how long nothing new is granted."""
        until = self.born + self.lease + self.step
        if self.confirmed < self.expected:
            until += self.kept
        return max(0.0, until - self.clock)

    def _prune(self) -> dict[str, bool]:
        """Take out whose lease has run out; return the keys of which places have become free."""
        touched: dict[str, bool] = {}
        if self.clock < self.due:
            return touched
        for member, record in list(self.records.items()):
            if record.end > self.clock:
                continue
            touched.update(dict.fromkeys((ALL, *record.keys), True))
            if record.kept and not record.absent:
                for key in list(record.keys):
                    entry = self.keys[key].entries[member]
                    share = max(entry.limit, self.limits.get(key, self.limits.get("*", 0))) // record.members
                    self._put(member, record, key, int(min(entry.held, share)), 0, 0)
                record.absent = True
                record.end += record.kept
                for key in (ALL, *record.keys):
                    self.keys[key].absent += self.keys[key].entries[member].held
            if record.end <= self.clock:
                self._remove(member, record)
        self.due = min((record.end for record in self.records.values()), default=inf)
        return touched

    # -- members --------------------------------------------------------------------------------------

    def _admit(self, call: Call, record: Record | None) -> Reply | None:
        """Say what keeps a call from being taken in, if anything does."""
        if record is not None and call.seq <= record.seq:
            return Reply("old")
        in_step = record is not None and call.base == record.seq and record.born == self.born
        if not call.whole and not (in_step and record is not None and not record.absent):
            return Reply("whole")
        return None

    def _join(self, call: Call) -> Record:
        self.fences += 1
        record = self.records[call.member] = Record(self.fences)
        self._entry(ALL, call.member, call.terms.max_open)
        return record

    def _leave(self, record: Record, call: Call, touched: dict[str, bool]) -> Reply:
        touched.update(dict.fromkeys((ALL, *record.keys), True))
        self._remove(call.member, record)
        return Reply("ok", record.fence, len(self.records))

    def _remove(self, member: str, record: Record) -> None:
        for key in (*record.keys, ALL):
            self._drop(member, record, key)
        del self.records[member]

    def _drop(self, member: str, record: Record, key: str) -> None:
        """Forget a member's part in a key."""
        if key:
            self._put(member, record, key, 0, 0, 0)
            del record.keys[key]
        places = self.keys[key]
        self._announce(places, places.entries.pop(member).limit, -1)
        record.news.pop(key, None)
        if not places.entries:
            del self.keys[key]

    # -- places ---------------------------------------------------------------------------------------

    def _entry(self, key: str, member: str, limit: float) -> Entry:
        places = self.keys.get(key)
        if places is None:
            places = self.keys[key] = KeyPlaces()
        entry = places.entries.get(member)
        if entry is None:
            entry = places.entries[member] = Entry(limit, self.clock)
            self._announce(places, limit, 1)
        elif entry.limit != limit:
            self._announce(places, entry.limit, -1)
            self._announce(places, limit, 1)
            entry.limit = limit
        return entry

    def _announce(self, places: KeyPlaces, limit: float, more: int) -> None:
        """Note how many members know this as the limit of a key."""
        left = places.limits.get(limit, 0) + more
        if left:
            places.limits[limit] = left
        else:
            del places.limits[limit]

    def limit(self, key: str) -> float:
        """Return what the fleet may have of a key: what was set, else the lowest that a member knows."""
        fixed = self.limits.get(key, self.limits.get("*") if key else None)
        if fixed is not None:
            return fixed
        return min(self.keys[key].limits, default=inf)

    def _put(self, member: str, record: Record, key: str, held: int, need: int, counted: int) -> None:
        """Set what a member holds and needs of a key, and with it of all.

        Of all it needs only what this key does not keep it from.
        """
        entry = self.keys[key].entries[member]
        in_all = self.keys[ALL].entries[member]
        more, counted_more = held - entry.held, counted - entry.counted
        entry.counted = counted
        self._set(key, entry, record.absent, held, need)
        if more or counted_more:
            self._set(ALL, in_all, record.absent, in_all.held + more, in_all.need + counted_more)

    def _set(self, key: str, entry: Entry, absent: bool, held: int, need: int) -> None:
        places = self.keys[key]
        waited = max(0, entry.need - entry.held)
        waits = max(0, need - held)
        if held != entry.held or (waits and not waited and not held):
            entry.turn = self.clock
        if absent:
            places.absent += held - entry.held
        places.held += held - entry.held
        places.waits += waits - waited
        entry.held, entry.need = held, need

    def _serve(self, record: Record, call: Call, touched: dict[str, bool]) -> Reply:
        """Renew a member's lease, take in what it says, grant what it may have."""
        member, terms = call.member, call.terms
        back = record.absent
        if back:
            record.absent = False
            for key in (*record.keys, ALL):
                self.keys[key].absent -= self.keys[key].entries[member].held
        if record.born != self.born:
            record.born = self.born
            self.confirmed += 1
        self.expected = max(self.expected, call.members)
        record.seq, record.kept, record.weight = call.seq, terms.kept, terms.weight
        record.end = self.clock + terms.lease + self.step
        self.due = min(self.due, record.end)
        record.members = max(1, min(call.members or 1, len(self.records)))
        quiet = self._quiet()
        if call.whole:
            for key in sorted(record.keys.keys() - {claim.key for claim in call.claims}):
                touched[key] = touched[ALL] = True
                self._drop(member, record, key)
        for claim in call.claims:
            self._take_in(member, record, claim, touched, believed=quiet > 0)
        if not quiet:
            for claim in call.claims:
                if claim.ask > claim.held or claim.need > claim.held:
                    self._grant(member, record, claim, terms.interval)
        rows = self._rows(member, record, call, touched)
        return Reply("ok", record.fence, len(self.records), quiet, rows)

    def _take_in(
        self, member: str, record: Record, claim: Claim, touched: dict[str, bool], *, believed: bool
    ) -> None:
        """Note what a member says of a key: it holds no more than it was granted, if that is known."""
        entry = self._entry(claim.key, member, claim.limit)
        record.keys[claim.key] = None
        before, needed = entry.held, entry.need
        held = claim.held if believed else min(claim.held, before)
        self._put(member, record, claim.key, held, claim.need, min(claim.need, held))
        if (held, claim.need) != (before, needed) or claim.need > held:
            touched[claim.key] = touched.get(claim.key, False) or held < before
            touched[ALL] = touched.get(ALL, False) or held < before
        if not (held or claim.need or claim.ask):
            self._drop(member, record, claim.key)

    def _grant(self, member: str, record: Record, claim: Claim, interval: float) -> None:
        """Give a member what it may have of a key."""
        entry = self.keys[claim.key].entries.get(member)
        if entry is None:
            return
        held = entry.held
        most = self._room(claim.key, member, max(claim.ask, claim.need) - held, interval)
        if most > 0:
            self._put(member, record, claim.key, held, claim.need, min(claim.need, held + most))
            most = self._room(ALL, member, most, interval)
            self._put(member, record, claim.key, held + most, claim.need, entry.counted)

    def _room(self, key: str, member: str, most: int, interval: float) -> int:
        """Return how many more of a key a member may have now, of so many."""
        places = self.keys[key]
        entry = places.entries[member]
        free = self.limit(key) - places.held
        if free <= 0:
            return 0
        if free >= places.waits:  # enough for all that wait
            return int(min(most, free - places.waits + max(0, entry.need - entry.held)))
        share = self._shares(key, interval)[member]
        return int(max(0, min(most, free, share - entry.held)))

    def _shares(self, key: str, interval: float) -> dict[str, int]:
        places, records = self.keys[key], self.records
        needs = [
            Need(member, entry.held, entry.need, records[member].weight, entry.turn)
            for member, entry in places.entries.items()
            if not records[member].absent
        ]
        return shares(needs, self.limit(key) - places.absent, self.clock, interval)

    # -- who else is concerned ------------------------------------------------------------------------

    def _rows(self, member: str, record: Record, call: Call, touched: dict[str, bool]) -> list[Row]:
        """Make the answer's rows: for the keys of the call, and for those that it was told of."""
        rows = []
        for key in dict.fromkeys((*(claim.key for claim in call.claims), *record.news, ALL)):
            places = self.keys.get(key)
            entry = None if places is None else places.entries.get(member)
            if places is None or entry is None:
                rows.append(Row(key, 0, 0, False, False, inf, 0))
                continue
            limit = self.limit(key)
            contended = places.waits > 0
            target = entry.held
            if (contended or places.held > limit) and 0 <= entry.told < target:
                target = entry.told  # nothing has changed since
            if key in touched or key in record.news:
                target = self._settle(key, member, freed=touched.get(key, False))
            hard = places.held > limit and not self._quiet()
            rows.append(Row(key, entry.held, target, contended, hard, limit, places.held))
            touched.pop(key, None)
        record.news.clear()
        return rows

    def _settle_others(self, touched: dict[str, bool], member: str) -> None:
        for key, freed in touched.items():
            if key in self.keys:
                self._settle(key, member, freed=freed)

    def _settle(self, key: str, caller: str, *, freed: bool) -> int:
        """See who is to give places of a key back, and who may come for some; return the caller's target."""
        places = self.keys[key]
        own = places.entries.get(caller)
        target = 0 if own is None else own.held
        limit = self.limit(key)
        free = limit - places.held
        contended_before = places.contended
        began = places.waits > 0 and not contended_before
        places.contended = places.waits > 0
        was_told = -1 if own is None else own.told
        if own is not None:
            own.told = target
        if free == inf or self._quiet() or (free >= 0 and not places.waits):
            return target
        if not freed and not began and free >= 0:
            if free >= places.waits:
                return target  # who waits has been told, or will ask again
            if self.clock - places.settled < self.step / 4:
                if contended_before and 0 <= was_told < target and own is not None:
                    own.told = target = was_told
                return target
        return self._share_out(key, caller, target, freed=freed, began=began)

    def _share_out(self, key: str, caller: str, target: int, *, freed: bool, began: bool) -> int:
        """Tell each member what its share of a contended key asks of it; return the caller's target."""
        places = self.keys[key]
        free = self.limit(key) - places.held
        places.settled = self.clock
        mine = self._shares(key, self.step)
        short: float = -free
        for member, share in sorted(mine.items()):
            entry = places.entries[member]
            lacks = share - entry.held
            if lacks > 0:
                short += lacks
                if freed and free > 0 and member != caller:
                    self._tell(member, key, share)
        for member in sorted(mine, key=lambda one: (mine[one] - places.entries[one].held, one)):
            entry = places.entries[member]
            more = int(min(entry.held - mine[member], short))
            if more > 0:
                short -= more
                if member == caller:
                    entry.told = target = entry.held - more
                else:
                    self._tell(member, key, entry.held - more)
            elif began and entry.held and member != caller:
                entry.told = -1  # what it needs now is not known: it had no reason to say so
                self._tell(member, key, entry.held)
        return target

    def _tell(self, member: str, key: str, target: int) -> None:
        """Let a member come for a key, unless it knows all of this."""
        entry = self.keys[key].entries[member]
        if entry.told != target:
            entry.told = target
            self.records[member].news[key] = None
            self.told.append((member, key))
