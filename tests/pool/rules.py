"""What the pool promises, judged by what the world saw of one step. See `model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepalive.base.types import NEVER
from keepalive.pool.states import Failure, SlotState

if TYPE_CHECKING:
    from .model import World
    from .seen import Ask, Link, Place

CLOSING, IDLE = SlotState.CLOSING, SlotState.IDLE
TIMED = Failure.CONNECT_TIMEOUT
Wanting = list["tuple[int, Place]"]


class Violation(AssertionError):
    """The pool broke a promise."""


def need(holds: object, message: str) -> None:
    if not holds:
        raise Violation(message)


# -- at the moment of an effect ---------------------------------------------------------------------


def may_take(world: World, ask: Ask, link: Link) -> None:
    """Judge which idle connection is taken: the warmest that the request may have."""
    place, now = world.places[ask.key], world.now
    shelf = [] if ask.fresh else [other for other in place.idle if other.expires > now]
    shelf = shelf or [other for other in place.unused if other.expires > now]
    need(link.expires > now, "took an expired connection")
    need(link is shelf[-1], "took another than the warmest connection")


def may_close(world: World, link: Link) -> None:
    """Judge whether there is a reason to close this connection now."""
    step = world.step
    if step.what in ("shutdown", "retire") or (step.subject is link and step.what in ("discard", "lost")):
        return
    need(link.where is None or link.where is IDLE, "closed in somebody's hands")
    if link.where is None:
        if not worn_out(world, link):
            step.displaced.append(link)
            if link.expires > world.now and not surplus(world, link):
                step.evictions += 1
        return
    if surplus(world, link):
        return
    over = step.what == "set_limits" and over_limit(world, link)
    if link.expires <= world.now or over:
        return
    step.evictions += 1
    place = world.places[link.key]
    head = place.head()
    borrowed = any(other.extra for other in world.places.values())
    coldest = world.total >= world.limits.max_open and link is next(iter(world.cold)) and not borrowed
    own = place.count >= world.limits.max_per_host and link in place.idle[:1] and not place.extra
    need(coldest or (own and head is not None and head.fresh), "evicted without need, or not the coldest")


def surplus(world: World, link: Link) -> bool:
    """Say whether more are idle than may be, with those that are about to be, and this one is the coldest."""
    idle = len(world.cold) + len(world.step.in_hand)
    coldest = next(iter(world.cold), None)
    return idle > world.limits.max_idle and (link is coldest or (coldest is None and link.where is None))


def over_limit(world: World, link: Link) -> bool:
    limits = world.limits
    return world.total > limits.max_open or world.places[link.key].count > limits.max_per_host


def worn_out(world: World, link: Link) -> bool:
    """Say whether a connection that its user or an attempt hands in is of no use to anybody."""
    if world.pool.closed or link.dies <= world.now or link.uses >= world.limits.max_uses:
        return True
    # It was used, reserved again, and not fetched.
    stale = link.uses > 0 and link.expires <= world.now and link.since < world.now
    return stale or over_limit(world, link)


# -- after each step --------------------------------------------------------------------------------


def check(world: World) -> None:
    if world.step.late:
        late_failures(world)
    wanting = standing(world)
    step = world.step
    if step.failed:
        failures(world)
    for ask, link, direct in step.served:
        service(world, ask, link, direct, wanting)
    for link in step.opened:
        attempt(world, link, wanting)
    for link in step.aborted:
        abortion(world, link, wanting)
    for link in step.displaced:
        displacement(world, link)
    if step.recalled:
        recalls(world)
    need(step.evictions <= len(step.opened), "evicted for nobody")
    need(step.what != "warm" or not (step.aborted or step.evictions), "a warm-up took something away")
    if step.what == "open_failed" and not step.failed:
        need(not world.places[step.key].queue, "a failed attempt left the oldest request waiting")


def standing(world: World) -> Wanting:
    """Judge the state as such; return who could use room, by the age of the request without an attempt."""
    limits, spares = world.limits, 0
    need(len(world.cold) <= limits.max_idle, "more idle connections than max_idle")
    wanting: Wanting = []
    if world.step.what == "tick":
        for link in world.step.aborted:  # one spare ended, and a timeout made another, all in one late tick
            world.places[link.key].spare_since = NEVER
    for place in world.places.values():
        queue, dialing = place.queue, place.dialing
        if not queue and not dialing:  # most of the many: nobody waits, nothing is under way
            place.warming, place.spare_since = 0, NEVER
            continue
        if queue:
            need(not place.unused, "waits beside an unused connection")
            need(not place.idle or all(ask.fresh for ask in queue), "waits beside an idle connection")
            full = place.count >= limits.max_per_host and not place.idle and not place.extra
            if len(queue) > dialing and not full and may_try(world, place):
                wanting.append((queue[dialing].number, place))
            if place.pauses_until is not None:
                own = [link for link in world.links.values() if link.key == place.key]
                need(any(link.where is not CLOSING for link in own), "waits for a pause alone")
        place.warming = min(place.warming, dialing)
        need(dialing <= len(queue) + max(1, place.warming), "more spare attempts than one, or a warm-up's")
        if dialing <= len(queue):
            place.spare_since = NEVER
        else:
            spares += 1
            place.spare_since = min(place.spare_since, world.now)
    if wanting:
        need(world.total >= limits.max_open, "room is left, and a request waits without an attempt")
        need(not world.cold, "a request waits for room that an idle connection takes")
        lent = any(place.extra for place in world.places.values())
        need(not lent, "a request waits for room that an attempt has borrowed")
        need(not spares or world.aborting >= len(wanting), "a request waits for room that a spare takes")
    return wanting


def may_try(world: World, place: Place) -> bool:
    """Say whether the key may start one more attempt."""
    tried = place.failures >= world.limits.pause_after and place.dialing > 0
    return place.pauses_until is None and not tried


def to_warm_up(world: World, place: Place, ready: int) -> int:
    """Say how many attempts a warm-up is to start, so that so many connections are ready in the end."""
    limits = world.limits
    missing = ready - len(place.idle) - len(place.unused) - max(0, place.dialing - len(place.queue))
    room = min(
        limits.max_open - world.total,
        limits.max_per_host - place.count,
        limits.max_idle - len(world.cold),
    )
    if world.pool.closed or not may_try(world, place):
        return 0
    most = 1 if place.failures >= limits.pause_after else room
    return int(max(0, min(missing, room, most)))


def service(world: World, ask: Ask, link: Link, direct: bool, wanting: Wanting) -> None:
    """Judge that this request and no other got this connection."""
    need(not (ask.fresh and link.uses), "a used connection for a fresh request")
    place = world.places[ask.key]
    for other in place.queue:
        if not (other.fresh and link.uses):
            need(other.number > ask.number, "served before an older one")
            break
    if not direct:
        return
    need(not worn_out(world, link), "handed over a connection that is of no use")
    if link.uses and world.step.what != "tick":  # in one tick much happens after the hand-over
        head = place.head()
        needed = head is not None and head.number < ask.number and may_try(world, place)
        need(not needed, "an older fresh request needed the place")
        need(all(number > ask.number for number, _ in wanting), "an older request needed the place")


def attempt(world: World, link: Link, wanting: Wanting) -> None:
    """Judge that this attempt is needed, and that no other key was to have it."""
    place = world.places[link.key]
    if link.key in world.step.late:
        return  # it may have been started before the failure in the same tick
    need(place.pauses_until is None, "an attempt in a pause")
    need(place.failures < world.limits.pause_after or place.dialing <= 1, "two attempts after a pause")
    if world.step.what in ("tick", "warm"):
        return
    need(place.dialing <= len(place.queue), "an attempt for nobody")
    newest = place.queue[place.dialing - 1].number
    for number, _ in wanting:
        need(number > newest, "an attempt for this key, and an older request of another waits")


def abortion(world: World, link: Link, wanting: Wanting) -> None:
    """Judge that this attempt was not needed."""
    if world.step.what in ("tick", "shutdown"):
        return
    place = world.places[link.key]
    need(place.dialing >= len(place.queue), "aborted an attempt that somebody waits for")
    many = place.dialing > len(place.queue)
    need(many or world.aborting <= len(wanting), "aborted a spare attempt without need")


def recalls(world: World) -> None:
    """Judge that places were called back for requests that got them in the same step, or with an attempt."""
    step = world.step
    if step.what in ("tick", "shutdown", "set_limits"):
        return
    need(step.what not in ("warm", "repay"), "called places back for nobody")
    ended = sum(link in step.aborted for link in step.recalled)
    need(len(step.recalled) - ended <= len(step.opened), "called a place back without need")


def displacement(world: World, link: Link) -> None:
    """Judge that a good connection was closed only for a request older than who could have had it."""
    if world.step.what == "tick":
        return
    for ask in world.places[link.key].queue:
        if not (ask.fresh and link.uses):
            places = [world.places[link.key] for link in world.step.opened]
            need(
                any(place.queue[place.dialing - 1].number < ask.number for place in places),
                f"request {ask.number} was denied a good connection",
            )
            return


def failures(world: World) -> None:
    step, now = world.step, world.now
    for ask in step.failed:
        failure = ask.waiter.failure
        if failure is Failure.TIMEOUT:
            need(ask.deadline <= now, "timed out early")
        elif failure is TIMED:
            need(step.what == "tick", "a connect timeout out of time")
        elif failure is Failure.SHUTDOWN:
            need(world.pool.closed, "no shutdown")
        elif failure is Failure.PAUSED:
            paused = ask.key in step.paused  # a late tick may pass its end
            need(paused or world.places[ask.key].pauses_until is not None, "failed for no pause")
            timed = world.limits.connect_timeout < NEVER  # then the pause may be for want of an answer
            need(ask.waiter.error is not None or timed, "no error told")
        elif step.what == "refuse":
            need(ask is step.subject, "refused another request")
        else:
            need(step.what == "open_failed" and ask.key == step.key, "no attempt of its key failed")
            need(ask.waiter.error is not None, "no error told")
    late = sum(ask.waiter.failure is TIMED for ask in step.failed)
    need(late <= sum(link.gives_up <= now for link in step.aborted), "one attempt failed more than one")
    if step.what == "open_failed":
        failed = [ask for ask in step.failed if ask.waiter.failure is not Failure.PAUSED]
        need(len(failed) == 1, "one attempt failed more than one")
        ask = failed[0]
        need(all(other.number > ask.number for other in world.places[ask.key].queue), "not the oldest failed")


def late_failures(world: World) -> None:
    """Judge the failures that were counted for attempts whose time was over, and learn of the pauses.

    In one tick a spare may be given up before it is late, or a pause end before the next one begins.
    """
    for key, late in world.step.late.items():
        place, host = world.places[key], world.pool.keys.states[key]
        told = [ask for ask in world.step.failed if ask.key == key and ask.waiter.failure is TIMED]
        if host.failed_at < world.now or world.pool.closed:
            counted = told and world.limits.pause_after < NEVER and key not in world.step.paused
            need(not counted, "a late attempt was no failure")
            continue
        need(host.failures <= place.failures + late, "counted more failures than there were")
        again = host.failures < world.limits.pause_after
        need((host.pause is None) == again, "pauses after too few failures, or not after enough")
        place.failures, place.failed_at = host.failures, host.failed_at
        if host.pause is not None and host.pause.timer is not None:
            place.pauses_until = host.pause.timer[0]
            need(place.pauses_until > world.now, "a pause outlives its time")


def after_tick(world: World) -> None:
    step, now = world.step, world.now
    need(world.pool.timers.earliest == world.pool.next_deadline(), "the next tick is not known exactly")
    late = [ask.key for ask in step.failed if ask.waiter.failure is TIMED]
    if not step.served and len(late) == len(step.failed):  # nothing else has shortened a queue
        given_up = [link.key for link in step.aborted if link.gives_up <= now]
        for key in set(given_up):
            some_left = world.places[key].head() is not None
            need(not some_left or given_up.count(key) == late.count(key), "a late attempt left it waiting")
    need(all(ask.deadline > now for ask in world.asks.values()), "a timeout was missed")
    need(all(link.expires > now for link in world.cold), "an idle connection outlives its time")
    for link in world.links.values():
        need(link.where is not SlotState.OPENING or link.gives_up > now, "an attempt outlives its time")
    for place in world.places.values():
        spare_for = world.limits.spare_for
        need(place.spare_since + spare_for > now, "a spare attempt outlives its time")
