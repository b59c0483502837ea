"""The memory network keeps time, breaks when told to, and repeats itself exactly."""

import pytest
import trio
import trio.testing

from hivemind_p2p.errors import PeerUnreachableError, ProtocolError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.memory import DIAL_TIMEOUT, MemoryNetwork
from hivemind_p2p.types import PeerInfo

PROTOCOL = "/test/memory/1"
ALICE, BOB, CAROL = (Identity(letter * 32) for letter in (b"a", b"b", b"c"))


class Accepted:
    """A handler that hands its streams to the test."""

    def __init__(self, transport):
        self.send, self.receive = trio.open_memory_channel(100)
        transport.set_handler(PROTOCOL, self.handle)

    async def handle(self, stream):
        await self.send.send(stream)
        await trio.sleep_forever()


def meet(network):
    alice, bob = network.join(ALICE), network.join(BOB.peer_id)
    alice.learn(PeerInfo(bob.peer_id, bob.addresses))
    return alice, bob, Accepted(bob)


async def connect(network):
    alice, bob, accepted = meet(network)
    opened = await alice.open_stream(bob.peer_id, PROTOCOL)
    return alice, bob, opened, await accepted.receive.receive()


async def test_latency_is_exact(autojump_clock):
    _, _, near, far = await connect(MemoryNetwork(latency=0.1))
    assert trio.current_time() == pytest.approx(0.4), "two round trips: one for dialling, one for the stream"
    await near.send_all(b"ping")
    await far.receive_some()
    assert trio.current_time() == pytest.approx(0.5)


async def test_a_second_stream_needs_one_round_trip(autojump_clock):
    alice, bob, _, _ = await connect(MemoryNetwork(latency=0.1))
    started = trio.current_time()
    await alice.open_stream(bob.peer_id, PROTOCOL)
    assert trio.current_time() - started == pytest.approx(0.2)


async def test_bandwidth_is_shared_by_the_streams_of_a_direction(autojump_clock):
    alice, bob, accepted = meet(MemoryNetwork(bandwidth=100_000))
    ends = []
    for _ in range(2):
        ends.append((await alice.open_stream(bob.peer_id, PROTOCOL), await accepted.receive.receive()))

    async def receive(far):
        left = 50_000
        while left:
            left -= len(await far.receive_some())

    async with trio.open_nursery() as nursery:
        for near, far in ends:
            nursery.start_soon(near.send_all, bytes(50_000))
            nursery.start_soon(receive, far)
    assert trio.current_time() == pytest.approx(1.0)


async def test_the_same_seed_loses_the_same_writes(autojump_clock):
    async def survived(seed):
        _, _, near, _ = await connect(MemoryNetwork(loss=0.1, seed=seed))
        for count in range(1000):
            try:
                await near.send_all(b"x")
            except trio.BrokenResourceError:
                return count
        return 1000

    counts = [await survived(seed) for seed in (1, 1, 2, 3)]
    assert counts[0] == counts[1]
    assert len(set(counts)) > 1
    assert all(count < 1000 for count in counts)


async def test_a_lost_write_breaks_both_sides(autojump_clock):
    _, _, near, far = await connect(MemoryNetwork(loss=1.0))
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await far.receive_some()


async def test_a_partition_stalls_streams_and_heal_goes_on(autojump_clock):
    network = MemoryNetwork()
    _, _, near, far = await connect(network)
    network.partition([{ALICE.peer_id}, {BOB.peer_id}])
    await near.send_all(b"late")
    with trio.move_on_after(60) as scope:
        await far.receive_some()
    assert scope.cancelled_caught
    network.heal()
    assert await far.receive_some() == b"late"


async def test_a_reader_that_waits_wakes_up_at_heal(autojump_clock):
    network = MemoryNetwork()
    _, _, near, far = await connect(network)
    network.partition([{ALICE.peer_id}])
    await near.send_all(b"late")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        network.heal()


async def test_a_dial_across_a_partition_times_out(autojump_clock):
    network = MemoryNetwork()
    alice, bob, _ = meet(network)
    network.partition([{ALICE.peer_id}])
    with pytest.raises(PeerUnreachableError, match=f"{BOB.peer_id}.*/memory/2"):
        await alice.open_stream(bob.peer_id, PROTOCOL)
    assert trio.current_time() == pytest.approx(DIAL_TIMEOUT)
    network.heal()
    await alice.open_stream(bob.peer_id, PROTOCOL)
    assert alice.statistics().refused == 1


async def test_a_killed_peers_streams_end_cleanly_after_what_was_on_its_way(autojump_clock):
    network = MemoryNetwork(latency=0.1)
    alice, bob, near, far = await connect(network)
    await far.send_all(b"last words")
    network.kill(bob.peer_id)
    assert await near.receive_some() == b"last words"
    assert await near.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"anybody?")
    started = trio.current_time()
    with pytest.raises(PeerUnreachableError):
        await alice.open_stream(bob.peer_id, PROTOCOL)
    assert trio.current_time() - started >= DIAL_TIMEOUT


async def test_kill_stops_the_handlers(autojump_clock):
    network = MemoryNetwork()
    alice, bob, _ = meet(network)
    stopped = trio.Event()

    async def handle(stream):
        try:
            await trio.sleep_forever()
        finally:
            stopped.set()

    bob.set_handler(PROTOCOL, handle)
    await alice.open_stream(bob.peer_id, PROTOCOL)
    await trio.testing.wait_all_tasks_blocked()
    network.kill(bob.peer_id)
    with trio.fail_after(1):
        await stopped.wait()


async def test_a_killed_peer_comes_back_at_a_new_address(autojump_clock):
    network = MemoryNetwork()
    alice, bob, _, _ = await connect(network)
    network.kill(bob.peer_id)
    again = network.join(BOB)
    Accepted(again)
    with pytest.raises(PeerUnreachableError, match="/memory/2"):
        await alice.open_stream(BOB.peer_id, PROTOCOL)
    alice.learn(PeerInfo(BOB.peer_id, again.addresses))
    await alice.open_stream(BOB.peer_id, PROTOCOL)


async def test_only_what_was_learned_can_be_dialled(autojump_clock):
    network = MemoryNetwork()
    alice, bob, _ = meet(network)
    with pytest.raises(PeerUnreachableError, match="no address"):
        await bob.open_stream(CAROL.peer_id, PROTOCOL)
    with pytest.raises(PeerUnreachableError, match="no address"):
        await bob.open_stream(ALICE.peer_id, PROTOCOL)
    await alice.open_stream(BOB.peer_id, PROTOCOL)
    with pytest.raises(ProtocolError, match=PROTOCOL):  # over alice's own connection, where nobody answers
        await bob.open_stream(ALICE.peer_id, PROTOCOL)


async def test_a_wrong_address_reaches_nobody(autojump_clock):
    network = MemoryNetwork()
    alice, _, _ = meet(network)
    carol = network.join(CAROL)
    alice.learn(PeerInfo(BOB.peer_id, carol.addresses))
    with pytest.raises(PeerUnreachableError, match="/memory/3"):
        await alice.open_stream(BOB.peer_id, PROTOCOL)


async def test_a_handler_that_raises_breaks_its_stream_only(autojump_clock):
    network = MemoryNetwork()
    alice, bob, _ = meet(network)

    async def fail(stream):
        raise ValueError

    bob.set_handler("/test/broken/1", fail)
    broken = await alice.open_stream(bob.peer_id, "/test/broken/1")
    with pytest.raises(trio.BrokenResourceError):
        await broken.receive_some()
    await alice.open_stream(bob.peer_id, PROTOCOL)


async def test_a_peer_that_leaves_is_refused_at_once(autojump_clock):
    network = MemoryNetwork()
    alice, bob, near, _ = await connect(network)
    await bob.aclose()
    assert await near.receive_some() == b""
    with pytest.raises(PeerUnreachableError):
        await alice.open_stream(bob.peer_id, PROTOCOL)
    assert trio.current_time() < 1


def test_a_peer_joins_once():
    network = MemoryNetwork()
    network.join(ALICE)
    with pytest.raises(ValueError, match="already"):
        network.join(ALICE)
