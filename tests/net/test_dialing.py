"""Dialling: addresses race, callers share, a caller that leaves takes nothing with it."""

import pytest
import trio
import trio.testing

from hivemind_p2p.errors import NetworkError, PeerUnreachableError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.background import Background
from hivemind_p2p.net.dialing import (
    DIAL_TIMEOUT,
    FIRST_WAIT,
    HEAD_START,
    LONGEST_WAIT,
    MOST_ADDRESSES,
    MOST_LOST,
    MOST_RELAYED,
    Dialler,
)

BOB, RELAY = (Identity(letter * 32).peer_id for letter in (b"b", b"r"))


def address(number):
    return f"/ip4/192.0.2.{number}/tcp/4001"


class Place:
    """Addresses that answer after some seconds, fail after some, or never do either."""

    def __init__(self, nursery, delays, failing=()):
        self.delays = delays
        self.failing = failing
        self.tried = []
        self.hung_up = []
        self.background = Background(nursery)
        self.dialler = Dialler(self.background, dial=self.dial, hang_up=self.hang_up, chance=lambda: 1.0)

    async def dial(self, peer, where):
        self.tried.append((where, trio.current_time()))
        await trio.sleep(self.delays.get(where, float("inf")))
        if where in self.failing:
            raise NetworkError(f"nobody home at {where}")
        return where

    async def hang_up(self, connection):
        self.hung_up.append(connection)


async def test_a_silent_address_costs_its_head_start_only(nursery, autojump_clock):
    place = Place(nursery, {address(2): 0.01})
    assert await place.dialler.connect(BOB, [address(1), address(2), address(3)]) == address(2)
    assert trio.current_time() == pytest.approx(HEAD_START + 0.01)
    assert [where for where, _ in place.tried] == [address(1), address(2)]


async def test_a_failing_address_lets_the_next_start_at_once(nursery, autojump_clock):
    place = Place(nursery, {address(1): 0.01, address(2): 0.01}, failing={address(1)})
    assert await place.dialler.connect(BOB, [address(1), address(2)]) == address(2)
    assert trio.current_time() == pytest.approx(0.02)


async def test_each_address_tells_why_it_failed(nursery, autojump_clock):
    place = Place(nursery, {address(1): 0.01}, failing={address(1)})
    with pytest.raises(PeerUnreachableError) as caught:
        await place.dialler.connect(BOB, [address(1), address(2)])
    assert f"{address(1)}: nobody home" in caught.value.message
    assert f"{address(2)}: no answer within" in caught.value.message
    assert BOB in caught.value.message
    assert trio.current_time() == pytest.approx(DIAL_TIMEOUT, abs=0.1)
    assert place.dialler.failures == 1


async def test_callers_share_a_dial_and_one_may_leave(nursery, autojump_clock):
    place = Place(nursery, {address(1): 1.0})
    connections = []

    async def call(patience):
        with trio.move_on_after(patience):
            connections.append(await place.dialler.connect(BOB, [address(1)]))

    async with trio.open_nursery() as callers:
        callers.start_soon(call, 0.5)
        callers.start_soon(call, 5)
        callers.start_soon(call, 5)
    assert connections == [address(1)] * 2
    assert place.dialler.dials == len(place.tried) == 1


async def test_a_dial_that_is_over_is_not_shared(nursery, autojump_clock):
    place = Place(nursery, {address(1): 0.1})
    for _ in range(2):
        await place.dialler.connect(BOB, [address(1)])
    assert place.dialler.dials == 2


async def test_a_second_connection_is_hung_up(nursery, autojump_clock):
    place = Place(nursery, {})

    async def dial_shielded(peer, where):  # a handshake that was complete when the other one won
        with trio.CancelScope(shield=True):
            await trio.sleep(HEAD_START + 0.1 if where == address(1) else 0.1)
        return where

    place.dialler = Dialler(Background(nursery), dial=dial_shielded, hang_up=place.hang_up)
    first = await place.dialler.connect(BOB, [address(1), address(2)])
    await trio.testing.wait_all_tasks_blocked()
    assert {first, *place.hung_up} == {address(1), address(2)}


async def test_a_peer_with_very_many_addresses_is_tried_at_some(nursery, autojump_clock):
    place = Place(nursery, {})
    with pytest.raises(PeerUnreachableError):
        await place.dialler.connect(BOB, [address(number) for number in range(100)])
    assert len(place.tried) == MOST_ADDRESSES


def through(number):
    return f"{address(number)}/p2p/{RELAY}/p2p-circuit"


async def test_a_relay_is_called_last_however_many_addresses_there_are(nursery, autojump_clock):
    place = Place(nursery, {})
    with pytest.raises(PeerUnreachableError):
        await place.dialler.connect(BOB, [*map(through, range(5)), *map(address, range(100))])
    tried = [where for where, _ in place.tried]
    assert len(tried) == MOST_ADDRESSES
    assert tried[-MOST_RELAYED:] == [through(0), through(1)]


async def test_nothing_starts_once_the_transport_is_closed(autojump_clock):
    async with trio.open_nursery() as nursery:
        place = Place(nursery, {address(1): 0})
        place.background.close()
        with trio.CancelScope(shield=True), pytest.raises(PeerUnreachableError, match="transport is closed"):
            await place.dialler.connect(BOB, [address(1)])
        assert place.tried == []


async def fail_to_reach(place, addresses, peer=BOB):
    with pytest.raises(PeerUnreachableError) as caught:
        await place.dialler.connect(peer, addresses)
    return caught.value.message


async def test_a_peer_that_did_not_answer_is_left_alone_for_a_moment(nursery, autojump_clock):
    place = Place(nursery, {address(1): 0.0}, failing={address(1)})
    await fail_to_reach(place, [address(1)])
    story = await fail_to_reach(place, [address(1)])
    assert "nobody home" in story
    assert "not dialled again for 0.2 s" in story or "not dialled again for 0.3 s" in story
    assert len(place.tried) == 1

    await trio.sleep(FIRST_WAIT)
    await fail_to_reach(place, [address(1)])
    assert len(place.tried) == 2


async def test_the_moment_grows_and_has_a_bound(nursery, autojump_clock):
    place = Place(nursery, {address(1): 0.0}, failing={address(1)})
    for _ in range(12):
        await fail_to_reach(place, [address(1)])
        await trio.sleep(LONGEST_WAIT)
    assert len(place.tried) == 12


async def test_a_new_address_or_a_sign_of_life_ends_it(nursery, autojump_clock):
    place = Place(nursery, {address(1): 0.0, address(2): 0.0}, failing={address(1)})
    await fail_to_reach(place, [address(1)])
    assert await place.dialler.connect(BOB, [address(2)]) == address(2)

    await fail_to_reach(place, [address(1)])
    place.failing = set()
    place.dialler.heard_from(BOB)
    assert await place.dialler.connect(BOB, [address(1)]) == address(1)


async def test_only_so_many_lost_peers_are_remembered(nursery, autojump_clock):
    place = Place(nursery, {address(1): 0.0}, failing={address(1)})
    for number in range(MOST_LOST + 10):
        await fail_to_reach(place, [address(1)], peer=f"peer {number}")
    assert len(place.dialler._lost) == MOST_LOST
