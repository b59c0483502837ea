"""Looking after connections: the dead are cut in time, the useless let go, and nobody else."""

from contextlib import asynccontextmanager

import pytest
import trio

from hivemind_p2p.net.background import Background
from hivemind_p2p.net.connection_budget import GRACE
from hivemind_p2p.net.liveness import Liveness
from hivemind_p2p.types import PeerId

OWN = PeerId("m")


class Connection:
    """A connection whose other side answers pings until told otherwise."""

    def __init__(self, name, *, relayed=False, is_initiator=True, streams=0):
        self.remote, self.relayed, self.is_initiator = PeerId(name), relayed, is_initiator
        self.streams = self.carried = streams
        self.in_use = streams > 0
        self.last_heard = 0.0
        self.rtt = 0.001
        self.answers = True
        self.pings = 0
        self.cut_at = None

    async def ping(self, timeout):
        self.pings += 1
        if not self.answers:
            with trio.fail_after(timeout):
                await trio.sleep_forever()
        await trio.sleep(self.rtt)
        self.last_heard = trio.current_time()
        return self.rtt

    def cut(self):
        self.cut_at = trio.current_time()
        self.everybody.remove(self)


@asynccontextmanager
async def watching(*connections, budget=100):
    everybody, gone = list(connections), []
    for connection in everybody:
        connection.everybody = everybody

    async def close(connection):
        gone.append(connection)
        everybody.remove(connection)

    async with trio.open_nursery() as nursery:
        liveness = Liveness(OWN, lambda: everybody, close, Background(nursery), budget=budget)
        liveness.gone = gone
        nursery.start_soon(liveness.run)
        yield liveness
        nursery.cancel_scope.cancel()


async def test_a_peer_that_answers_lives_on(autojump_clock):
    connection = Connection("a")
    async with watching(connection) as liveness:
        await trio.sleep(60)
        assert connection.cut_at is None
        assert connection.pings > 30
        assert liveness.died == 0


@pytest.mark.parametrize("after", [0.1, 5.3])
async def test_a_peer_that_falls_silent_is_dead_within_three_seconds(autojump_clock, after):
    connection = Connection("a", streams=1)
    async with watching(connection) as liveness:
        await trio.sleep(after)
        connection.answers, silent_at = False, max(connection.last_heard, trio.current_time())
        await trio.sleep(10)
        assert connection.cut_at is not None
        assert connection.cut_at - silent_at <= 3.0
        assert liveness.died == 1


async def test_many_connections_that_nobody_uses_are_pinged_seldom(autojump_clock):
    idle = [Connection(str(number)) for number in range(79)]
    used = Connection("used", streams=1)
    async with watching(used, *idle):
        await trio.sleep(60)
        assert used.pings > 30
        assert all(3 <= connection.pings <= 6 for connection in idle)


async def test_connections_beyond_the_budget_are_let_go(autojump_clock):
    connections = [Connection(name) for name in "abcd"]
    connections[0].streams = 1
    async with watching(*connections, budget=2) as liveness:
        liveness.kept.add(PeerId("b"))
        await trio.sleep(GRACE + 2)
        assert {connection.remote for connection in liveness.gone} == {"c", "d"}
        assert liveness.let_go == 2


async def test_a_relayed_connection_goes_once_there_is_a_direct_one(autojump_clock):
    relayed, direct = Connection("a", relayed=True), Connection("a")
    async with watching(relayed, direct) as liveness:
        liveness.kept.add(PeerId("a"))
        await trio.sleep(GRACE + 2)
        assert liveness.gone == [relayed]


async def test_of_two_connections_both_sides_let_go_of_the_same(autojump_clock):
    by_us, by_them = Connection("z", is_initiator=True), Connection("z", is_initiator=False)
    async with watching(by_us, by_them) as liveness:  # "m" < "z": the one that this side dialled stays
        await trio.sleep(GRACE + 2)
        assert liveness.gone == [by_them]


@pytest.mark.parametrize(("other", "closed"), [("z", 1), ("a", 0)], ids=["smaller", "larger"])
async def test_of_two_that_are_equally_good_one_side_alone_chooses(autojump_clock, other, closed):
    async with watching(Connection(other), Connection(other)) as liveness:
        await trio.sleep(GRACE + 2)
        assert len(liveness.gone) == closed
