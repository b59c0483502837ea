"""Places at relays: taken, renewed, lost and taken again, whatever relays and clocks say."""

import itertools

import pytest
import trio

from hivemind_p2p.errors import BusyError, PeerUnreachableError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.circuit import Reservation
from hivemind_p2p.net.places import FIRST_RETRY, GIVEN_UP_AFTER, LONGEST_RETRY, SHORTEST_RENEWAL, Places
from hivemind_p2p.types import PeerInfo

BOOTSTRAP, WILLING, OTHER = (
    PeerInfo(Identity(letter * 32).peer_id, (f"/ip4/9.9.9.{number}/tcp/4001",))
    for number, letter in enumerate((b"b", b"w", b"o"))
)
LIFETIME = 3600


class Fakes:
    """Links and circuits: relays that say yes, unless they are listed as full."""

    peer_id = "me"

    def __init__(self):
        self.full, self.gone, self.slow = set(), set(), set()
        self.asked, self.relays = [], set()

    async def reserve(self, relay):
        self.asked.append((relay.peer_id, trio.current_time()))
        if relay.peer_id in self.slow:
            await trio.sleep(10)
            raise PeerUnreachableError("no answer")
        if relay.peer_id in self.full:
            raise BusyError("full")
        self.gone.discard(relay.peer_id)
        return Reservation(relay.peer_id, trio.current_time() + LIFETIME)

    def direct(self, peer):
        return None if peer in self.gone else object()

    def times(self, relay):
        return [time for peer, time in self.asked if peer == relay.peer_id]


def places(fakes, *others, most=2, clock=trio.current_time):
    async def willing():
        return others

    return Places(fakes, fakes, clock=clock, trusted=[BOOTSTRAP], others=willing, most=most, chance=lambda: 1.0)


async def look_until(kept, seconds, changed=lambda: None):
    over = trio.current_time() + seconds
    while trio.current_time() < over:
        await kept.look(changed)
        await trio.sleep(1)


async def test_a_place_is_taken_told_and_renewed_after_half_of_its_life(autojump_clock):
    fakes, told = Fakes(), []
    kept = places(fakes)
    await look_until(kept, LIFETIME, lambda: told.append(kept.held))
    assert told == [(BOOTSTRAP.peer_id,)]
    assert kept.addresses == (f"/ip4/9.9.9.0/tcp/4001/p2p/{BOOTSTRAP.peer_id}/p2p-circuit",)
    first, second = fakes.times(BOOTSTRAP)
    assert second - first == pytest.approx(LIFETIME / 2, abs=1)


@pytest.mark.parametrize("ahead", [-86400, 86400], ids=["behind", "ahead"])
async def test_a_clock_that_is_off_neither_loses_the_place_nor_floods_the_relay(autojump_clock, ahead):
    fakes = Fakes()
    kept = places(fakes, clock=lambda: trio.current_time() + ahead)
    await look_until(kept, LIFETIME)
    between = [later - earlier for earlier, later in itertools.pairwise(fakes.times(BOOTSTRAP))]
    assert between
    assert SHORTEST_RENEWAL <= min(between) <= max(between) <= LIFETIME / 2 + 1


async def test_a_second_relay_is_kept_for_when_the_first_goes(autojump_clock):
    fakes = Fakes()
    kept = places(fakes, WILLING, OTHER)
    await look_until(kept, 5)
    assert len(kept.held) >= 2
    assert BOOTSTRAP.peer_id in kept.held


async def test_a_relay_that_has_gone_is_asked_again_at_once(autojump_clock):
    fakes = Fakes()
    kept = places(fakes)
    await look_until(kept, 5)
    fakes.gone.add(BOOTSTRAP.peer_id)
    await look_until(kept, 1)
    assert len(fakes.asked) == 2


async def test_a_relay_that_is_full_is_asked_less_and_less_often(autojump_clock):
    fakes, told = Fakes(), []
    fakes.full.add(BOOTSTRAP.peer_id)
    kept = places(fakes)
    await look_until(kept, 600, lambda: told.append(kept.held))
    assert told == []
    times = fakes.times(BOOTSTRAP)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[:3] == pytest.approx([2, 4, 8], abs=1)
    assert max(gaps) <= LONGEST_RETRY + 1


async def test_a_stranger_that_is_full_makes_room_for_another(autojump_clock):
    fakes = Fakes()
    fakes.full |= {BOOTSTRAP.peer_id, WILLING.peer_id}
    found = [WILLING]

    async def others():
        return found

    kept = Places(fakes, fakes, clock=trio.current_time, trusted=[BOOTSTRAP], others=others, most=1, chance=lambda: 1.0)
    await look_until(kept, 5)
    assert kept.held == ()
    found[:] = [OTHER]
    await look_until(kept, FIRST_RETRY * 2**GIVEN_UP_AFTER)
    assert kept.held == (OTHER.peer_id,)


async def test_a_slow_relay_keeps_no_other_waiting(autojump_clock):
    fakes, told = Fakes(), []
    fakes.slow.add(BOOTSTRAP.peer_id)
    kept = places(fakes, WILLING)
    await kept.look(lambda: told.append(trio.current_time()))
    assert kept.held == (WILLING.peer_id,)
    assert told[0] < 1


async def test_places_that_are_not_needed_are_given_up(autojump_clock):
    fakes = Fakes()
    kept = places(fakes)
    await look_until(kept, 2)
    kept.give_up()
    assert kept.held == kept.addresses == ()
