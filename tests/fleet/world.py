"""A fleet as seen from outside: members with pools, a network, a store, and the backends that count sockets.

Everything that can go wrong goes wrong here, by seed: crashes, pauses, cut networks, clocks that drift and
jump, calls lost, late and doubled, a store that comes back empty or without its last second. At every
instant the open connections are counted against the limits.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from copy import deepcopy
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any

from keepalive.fleet.core.member import Member
from keepalive.fleet.core.states import Do, State, Usage
from keepalive.fleet.core.store import Store
from keepalive.fleet.core.words import ALL, Terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from keepalive.fleet.core.words import Call, Reply

REPLICA_LAG = 1.0
ENOUGH = 80  # requests: more than are served until more come


def need(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


@dataclass(frozen=True)
class Config:
    """One kind of simulation. Rates are per second, of the whole fleet or, where said, of one member."""

    members: int = 8
    keys: int = 3
    limit: int = 10
    terms: Terms = field(default_factory=Terms)
    fallback: tuple[str, ...] = ("none",)
    weights: tuple[int, ...] = (1,)
    requests: float = 1.0  # of one member
    holds: float = 2.0  # seconds for which a connection is in use, on average
    patience: float = 20.0
    away: float = 0.2  # the part of members that want nothing for a while
    lost: float = 0.0  # of messages
    doubled: float = 0.0
    slow: float = 0.0  # of messages that take seconds
    drift: float = 0.02
    crashes: float = 0.0
    pauses: float = 0.0
    cuts: float = 0.0
    jumps: float = 0.0
    outages: float = 0.0
    restarts: float = 0.0  # empty
    failovers: float = 0.0  # without the last second
    short_outages: bool = False
    deaf: bool = False  # nothing comes by the store's own word in good times
    uncut: bool = False  # nothing happens that lets a connection in use be cut
    leaves: float = 0.0
    new_limits: float = 0.0
    seconds: float = 300.0  # of one episode


class Machine:
    """A member, its pool and its clock."""

    def __init__(self, world: World, number: int, terms: Terms) -> None:
        self.world = world
        rng = world.rng
        self.name = f"{number:06x}"
        self.rate = 1 + rng.uniform(-1, 1) * world.config.drift
        self.origin = rng.uniform(0, 1000)
        self.lent: Counter[str] = Counter()
        self.idle: Counter[str] = Counter()
        self.places: dict[str, float] = {}
        self.waiting: dict[str, deque[float]] = {key: deque() for key in world.keys}
        self.alive = True
        self.cut = False
        self.paused = False
        self.exempt = False
        self.alarm = -inf
        self.late: list[Callable[[], None]] = []
        self.busy = rng.random() >= world.config.away
        self.served = 0
        self.member = world.make_member(self.name, terms, self.usage)

    def now(self) -> float:
        return self.origin + self.world.now * self.rate

    def usage(self, key: str) -> Usage:
        idle = self.idle[key]
        return Usage(self.lent[key] + idle, idle, len(self.waiting.get(key, ())))

    def run(self, do: Callable[..., Any], *args: Any) -> None:
        """Give the member an input, then carry out what it wants."""
        if not self.alive:
            return
        if self.paused:
            self.late.append(lambda: self.run(do, *args))
            return
        do(*args, self.now())
        self.act()

    def act(self) -> None:
        effects = self.member.effects
        while effects:
            effect, what, detail = effects.popleft()
            if effect is Do.SEND:
                self.world.send(self, what)
            elif effect is Do.PLACES:
                self.places[what] = detail
                self.trim(what, detail)
                self.serve(what)
            elif effect is Do.CUT:
                while self.lent[what] + self.idle[what] > detail:
                    need(not self.world.config.uncut or self.world.calm, "cut in use")
                    self.close(self.idle if self.idle[what] else self.lent, what)
        self.set_alarm()

    def set_alarm(self) -> None:
        due = self.member.due
        if due < inf and due != self.alarm:
            self.alarm = due
            self.world.at((due - self.origin) / self.rate, self.ring, due)

    def ring(self, due: float) -> None:
        if due == self.alarm and self.alive:
            self.alarm = -inf
            self.run(lambda now: self.member.tick(max(now, due)))

    # -- the pool -------------------------------------------------------------------------------------

    def trim(self, key: str, places: float) -> None:
        while self.idle[key] and self.lent[key] + self.idle[key] > places:
            self.close(self.idle, key)

    def close(self, where: Counter[str], key: str) -> None:
        where[key] -= 1
        if not self.exempt:
            self.world.closed(key)

    def serve(self, key: str) -> None:
        waiting = self.waiting[key]
        while waiting:
            if waiting[0] < self.world.now:
                waiting.popleft()
                continue
            if self.idle[key]:
                self.idle[key] -= 1
            elif self.lent[key] < self.places.get(key, 0):
                self.world.opened(key, self)
            else:
                return
            waiting.popleft()
            self.served += 1
            self.lent[key] += 1
            self.world.after(self.world.rng.expovariate(1 / self.world.config.holds), self.release, key)

    def request(self, key: str) -> None:
        if self.paused or not self.alive:
            return
        self.waiting[key].append(self.world.now + self.world.config.patience)
        self.serve(key)
        if self.waiting[key]:
            self.run(lambda now: self.member.wanted(key, self.world.known[key], now))

    def release(self, key: str) -> None:
        if self.paused:
            self.late.append(lambda: self.release(key))
        if self.paused or not self.alive or not self.lent[key]:
            return
        self.lent[key] -= 1
        over = self.lent[key] + self.idle[key] >= self.places.get(key, 0)
        if over or self.world.rng.random() < 0.1:
            if not self.exempt:
                self.world.closed(key)
            if over and self.lent[key] + self.idle[key] <= self.places.get(key, 0):
                self.run(self.member.freed, key)
        else:
            self.idle[key] += 1
        self.serve(key)

    # -- what happens to it ---------------------------------------------------------------------------

    def end(self) -> None:
        """All its connections end, by a crash or at its own will."""
        for where in (self.lent, self.idle):
            for key, n in where.items():
                if not self.exempt:
                    for _ in range(n):
                        self.world.closed(key)
            where.clear()
        self.alive = False

    def crash(self) -> None:
        self.end()
        self.world.gone(self)

    def leave(self) -> None:
        if self.paused:
            return
        self.end()
        call = self.member.leave(self.now())
        if call is not None:
            self.world.send(self, call)
        self.world.gone(self)

    def pause(self, seconds: float) -> None:
        if self.paused or not self.alive:
            return
        self.paused = True
        end = (self.member.ends - self.origin) / self.rate
        if end < self.world.now + seconds:
            self.world.at(end, self.excuse)
        self.world.after(seconds, self.resume)

    def excuse(self) -> None:
        """A process frozen for longer than its lease: the one exception."""
        if self.paused and self.alive and not self.exempt:
            self.exempt = True
            self.world.count(self, -1)

    def resume(self) -> None:
        if not self.alive:
            return
        self.paused = False
        late, self.late = self.late, []
        self.member.tick(self.now())
        self.act()  # what it may not have any more ends before anything else
        if self.exempt:
            self.exempt = False
            self.world.count(self, 1)
        for do in late:
            do()


class World:
    """The network, the store and the backends."""

    def __init__(
        self,
        config: Config,
        seed: int,
        make_member: Callable[..., Member] = Member,
        make_store: Callable[[], Store] = Store,
    ) -> None:
        self.config = config
        self.rng = random.Random(seed)
        self.make_member = make_member
        self.make_store = make_store
        self.now = 0.0
        self.steps = 0
        self.queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.entered = 0
        self.keys = [f"key{n}" for n in range(config.keys)]
        self.known: dict[str, float] = dict.fromkeys(self.keys, config.limit)
        self.open: Counter[str] = Counter()
        self.total = 0
        self.most: Counter[str] = Counter()
        self.store = make_store()
        self.replica = make_store()
        self.log: deque[tuple[float, Callable[[Store], Any]]] = deque()
        self.epoch = "1"
        self.wall = self.rng.uniform(1e9, 2e9)
        self.up = True
        self.calls = 0
        self.numbers = 0
        self.machines: list[Machine] = []
        self.by_name: dict[str, Machine] = {}
        self.calm = False
        for _ in range(config.members):
            self.after(self.rng.uniform(0, config.terms.interval), self.start)
        self.plan("crashes", lambda: self.one().crash())
        self.plan("leaves", lambda: self.one().leave())
        self.plan("pauses", lambda: self.one().pause(self.some_time()))
        self.plan("cuts", self.cut)
        self.plan("jumps", self.jump)
        self.plan("outages", self.outage)
        self.plan("restarts", self.restart)
        self.plan("failovers", self.failover)
        self.plan("new_limits", self.new_limit)
        self.ask()

    # -- time -----------------------------------------------------------------------------------------

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        self.entered += 1
        heappush(self.queue, (max(when, self.now), self.entered, do, args))

    def after(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        self.at(self.now + seconds, do, *args)

    def run(self, until: float) -> None:
        queue = self.queue
        while queue and queue[0][0] <= until:
            self.now, _, do, args = heappop(queue)
            self.steps += 1
            do(*args)
        self.now = until

    def plan(self, name: str, do: Callable[[], None]) -> None:
        rate = getattr(self.config, name)
        if rate:

            def happen() -> None:
                if self.calm:
                    return
                if self.machines:
                    do()
                self.after(self.rng.expovariate(rate), happen)

            self.after(self.rng.expovariate(rate), happen)

    def some_time(self) -> float:
        return self.rng.choice((0.3, 1.0, 2.0)) * self.rng.random() * 2 * self.config.terms.lease

    # -- members --------------------------------------------------------------------------------------

    def start(self) -> None:
        self.numbers += 1
        config = self.config
        terms = config.terms
        fallback, weight = self.rng.choice(config.fallback), self.rng.choice(config.weights)
        if (fallback, weight) != (terms.fallback, terms.weight):
            terms = Terms(terms.interval, terms.lease, fallback, terms.fallback_for, terms.max_open, weight)
        machine = Machine(self, self.numbers, terms)
        self.machines.append(machine)
        self.by_name[machine.name] = machine
        machine.run(machine.member.join)

    def gone(self, machine: Machine) -> None:
        self.machines.remove(machine)
        del self.by_name[machine.name]
        self.after(self.some_time(), self.start)

    def one(self) -> Machine:
        return self.rng.choice(self.machines)

    def ask(self) -> None:
        rng, config = self.rng, self.config
        if self.machines and not self.calm:
            machine = self.one()
            if machine.busy:
                machine.request(self.keys[int(len(self.keys) * rng.random() ** 2)])
            if rng.random() < 0.01:
                machine.busy = rng.random() >= config.away
        self.after(rng.expovariate(config.requests * config.members), self.ask)

    # -- the backends ---------------------------------------------------------------------------------

    def opened(self, key: str, machine: Machine) -> None:
        self.total += 1
        self.open[key] += 1
        self.most[key] = max(self.most[key], self.open[key])
        self.check(key, machine)

    def closed(self, key: str) -> None:
        self.total -= 1
        self.open[key] -= 1

    def count(self, machine: Machine, sign: int) -> None:
        for where in (machine.lent, machine.idle):
            for key, n in where.items():
                self.open[key] += sign * n
                self.total += sign * n
                if sign > 0 and n:
                    self.check(key, machine)

    def check(self, key: str, machine: Machine) -> None:
        need(
            self.open[key] <= self.config.limit,
            f"{self.open[key]} of {self.config.limit} for {key}, the last one by {machine.name}",
        )
        need(
            self.total <= self.config.terms.max_open,
            f"{self.total} of {self.config.terms.max_open}, the last one by {machine.name}",
        )

    # -- the network ----------------------------------------------------------------------------------

    def latency(self) -> float:
        rng = self.rng
        if rng.random() < self.config.slow:
            return rng.random() * self.config.terms.lease
        return 0.0002 + rng.random() * 0.02

    def send(self, machine: Machine, call: Call) -> None:
        self.calls += 1
        rng, config = self.rng, self.config
        self.after(config.terms.lease / 5, self.give_up, machine, call.seq)
        copies = 1 + (rng.random() < config.doubled)
        for _ in range(copies):
            if rng.random() >= config.lost and not machine.cut:
                self.after(self.latency() * (1 if copies == 1 else 50), self.arrive, machine, call)

    def give_up(self, machine: Machine, seq: int) -> None:
        machine.run(machine.member.failed, seq)

    def arrive(self, machine: Machine, call: Call) -> None:
        if machine.cut or not self.up:
            return
        wall, epoch = self.wall + self.now, self.epoch
        reply = self.store.call(call, wall, epoch)
        for name, key in self.store.told:
            self.tell(name, key)
        if self.config.failovers:
            self.log.append((self.now, lambda store: store.call(call, wall, epoch)))
            self.replicate(self.now - REPLICA_LAG)
        if self.rng.random() >= self.config.lost:
            self.after(self.latency(), self.answer, machine, call.seq, reply)

    def replicate(self, until: float) -> None:
        while self.log and self.log[0][0] <= until:
            self.log.popleft()[1](self.replica)

    def answer(self, machine: Machine, seq: int, reply: Reply) -> None:
        if not machine.cut:
            machine.run(machine.member.answered, seq, reply)

    def tell(self, name: str, key: str) -> None:
        machine = self.by_name.get(name)
        if self.config.deaf and self.calm:
            return
        if machine is not None and not machine.cut and self.rng.random() >= self.config.lost:
            self.after(self.latency(), machine.run, machine.member.told, key)

    # -- faults ---------------------------------------------------------------------------------------

    def cut(self) -> None:
        machines = [machine for machine in self.machines if self.rng.random() < 0.3]
        for machine in machines:
            machine.cut = True
        self.after(self.some_time(), self.mend, machines)

    def mend(self, machines: list[Machine]) -> None:
        for machine in machines:
            machine.cut = False

    def jump(self) -> None:
        self.wall += self.rng.choice((3600.0, -3600.0, 3.0, -3.0))

    def outage(self) -> None:
        self.up = False
        self.after(self.rng.random() if self.config.short_outages else self.some_time(), self.back)

    def back(self) -> None:
        self.up = True

    def restart(self) -> None:
        self.store, self.replica = self.make_store(), self.make_store()
        self.log.clear()
        self.epoch = str(int(self.epoch) + 1)
        self.outage()

    def failover(self) -> None:
        self.replicate(self.now - self.rng.random() * REPLICA_LAG)
        self.log.clear()
        self.store, self.replica = self.replica, self.make_store()
        self.epoch = str(int(self.epoch) + 1)
        self.wall += self.rng.uniform(-0.5, 0.5)
        self.replica = deepcopy(self.store)  # the next one begins with a copy of what there is now
        self.outage()

    def new_limit(self) -> None:
        key = self.rng.choice([*self.keys, "*", ALL])
        limit = self.rng.choice((None, self.config.limit, self.config.limit // 2, 1))
        self.store.set_limit(key, limit)
        for name, told in self.store.told:
            self.tell(name, told)
        if self.config.failovers:
            self.log.append((self.now, lambda store: store.set_limit(key, limit)))

    # -- when all is well again -----------------------------------------------------------------------

    def settle(self) -> None:
        """No more faults: soon everything that there is serves whoever waits, and each has its share."""
        self.calm = True
        config = self.config = replace(self.config, lost=0.0, doubled=0.0, slow=0.0)
        terms = config.terms
        for key in ("*", ALL, *self.keys):
            self.store.set_limit(key, None)
        self.back()
        self.mend(self.machines)
        self.run(self.now + 4 * terms.lease + terms.fallback_for + 3 * config.patience)  # all are back
        for machine in self.machines:
            need(machine.member.state is State.LEASED, f"{machine.name} is not back")
        self.lower()
        self.take_all(self.keys[-1])
        key = self.keys[0]
        self.take_all(key)
        self.take_all(key, number=1)
        before = {machine.name: machine.served for machine in self.machines}
        self.flood(key, self.now + 4 * terms.lease, self.machines)
        # From all held by one to a fair share for each: two intervals, and the time to use a connection up.
        self.run(self.now + (2 + 3 * config.deaf) * terms.interval + 10 * config.holds)
        places = min(config.limit, terms.max_open)
        for _ in range(20):
            if self.store.keys[key].held == places:
                break
            self.run(self.now + 0.1)  # one is on its way from one to another
        held = {machine.name: machine.places.get(key, 0) for machine in self.machines}
        need(self.store.keys[key].held == places, f"{self.store.keys[key].held} of {places} held")
        if len(self.machines) <= places and len(set(config.weights)) == 1:
            least, most = min(held.values()), max(held.values())
            need(most - least <= 1 + places % len(self.machines), f"unfair: {held}")
        rounds = -(-len(self.machines) // places)
        self.run(self.now + rounds * (terms.interval + 10 * config.holds))
        for machine in self.machines:
            need(machine.served > before.get(machine.name, 0), f"{machine.name} starves")

    def lower(self) -> None:
        """A limit that is lowered is met within a lease, even by connections that are never given back."""
        key, terms = self.keys[0], self.config.terms
        self.take_all(key, holds=1000.0)
        limit = max(1, self.config.limit // 2)
        self.store.set_limit(key, limit)
        for name, told in self.store.told:
            self.tell(name, told)
        self.run(self.now + terms.lease + 2 * terms.interval)
        need(self.open[key] <= limit, f"{self.open[key]} open, of {limit} that are left")
        self.store.set_limit(key, None)
        for machine in self.machines:
            for _ in range(machine.lent[key]):
                machine.release(key)

    def take_all(self, key: str, *, holds: float = 0.1, number: int = 0) -> None:
        """One member takes all places of a key, as nobody else wants any, and keeps them idle."""
        if len(self.machines) <= number:
            return
        terms, machine = self.config.terms, self.machines[number]
        self.config = replace(self.config, holds=holds)
        self.flood(key, self.now + 4 * terms.interval, [machine])
        self.run(self.now + 4 * terms.interval)
        places = min(self.config.limit, terms.max_open)
        got = machine.places.get(key, 0)
        need(got == places or holds > 1, f"one got {got} of {places}")
        self.run(self.now + terms.interval)
        machine.waiting[key].clear()

    def flood(self, key: str, until: float, machines: list[Machine]) -> None:
        """Let some want more than there is."""
        for machine in machines:
            while len(machine.waiting[key]) < ENOUGH:
                machine.request(key)
        if self.now < until:
            self.after(0.5, self.flood, key, until, machines)
