"""Connections with streams: conformance, cancelling anywhere, slow readers, turns at a full socket, and every end."""

from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from hivemind_p2p.identity import Identity
from hivemind_p2p.net import muxed_connection as muxed
from hivemind_p2p.net import yamux_frames as frames
from hivemind_p2p.net.framing import FramedChannel
from hivemind_p2p.net.muxed_connection import MuxedConnection
from hivemind_p2p.net.pipe import stream_pair
from hivemind_p2p.net.yamux_limits import LARGEST_FRAME, MOST_UNANSWERED
from hivemind_p2p.proto.common_pb2 import Signed
from hivemind_p2p.testing.streams import check_stream

ALICE, BOB = Identity(b"a" * 32).peer_id, Identity(b"b" * 32).peer_id
KIB, MIB = 1 << 10, 1 << 20
SOCKET = 64 * KIB


class Way:
    """One direction: bytes on their way, no more than there is room for."""

    def __init__(self, room):
        self.room = room
        self.data = bytearray()
        self.ended = False
        self.stopped = False
        self.news = trio.lowlevel.ParkingLot()

    def put(self, data):
        count = max(0, min(len(data), self.room - len(self.data)))
        self.data += data[:count]
        self.news.unpark_all()
        return count

    def end(self):
        self.ended = True
        self.news.unpark_all()


class Plain:
    """The connection below: what `SecureConnection` promises, in memory."""

    def __init__(self, incoming, outgoing, *, dials, relayed=False):
        self.incoming, self.outgoing = incoming, outgoing
        self.is_initiator, self.relayed = dials, relayed
        self.left = b""
        self.closed = False
        self.sends = 0

    def _check(self):
        if self.closed:
            raise trio.ClosedResourceError("closed")
        if self.outgoing.ended:
            raise trio.BrokenResourceError("broken")

    async def receive(self):
        await trio.lowlevel.checkpoint()
        while not self.incoming.data or self.incoming.stopped:
            if self.closed:
                raise trio.ClosedResourceError("closed")
            if self.incoming.ended:
                return b""
            await self.incoming.news.park()
        data, self.incoming.data = bytes(self.incoming.data), bytearray()
        self.incoming.news.unpark_all()
        return data

    def send_now(self, parts):
        self._check()
        assert not self.left, "something is left from before"
        self.sends += 1
        data = b"".join(parts)
        self.left = data[0 if self.relayed else self.outgoing.put(data) :]
        return not self.left

    async def drain(self):
        await trio.lowlevel.checkpoint()
        while self.left:
            self._check()
            self.left = self.left[self.outgoing.put(self.left) :]
            if self.left:
                await self.outgoing.news.park()

    def cut(self):
        self.closed = True
        self.incoming.end()
        self.outgoing.end()

    async def close(self):
        self.cut()
        await trio.lowlevel.checkpoint()


class Pair:
    """Two ends of a connection, running."""

    def __init__(self, nursery, room, *, relayed):
        there, back = Way(room), Way(room)
        self.there, self.back = there, back
        self.alice = MuxedConnection(Plain(back, there, dials=True, relayed=relayed), ID.from_base58(BOB))
        self.bob = MuxedConnection(Plain(there, back, dials=False, relayed=relayed), ID.from_base58(ALICE))
        for end in (self.alice, self.bob):
            nursery.start_soon(end.start)

    async def streams(self):
        """Both ends of a new stream on which something was said each way."""
        mine = await self.alice.open_stream()
        await mine.send_all(b"?")
        yours = await self.bob.accept_stream()
        assert await yours.receive_some() == b"?"
        await yours.send_all(b"!")
        assert await mine.receive_some() == b"!"
        return mine, yours

    def hold(self):
        """Bob's system reads nothing more, so Alice's socket fills up."""
        self.there.stopped = True

    def let_go(self):
        self.there.stopped = False
        self.there.news.unpark_all()


@asynccontextmanager
async def a_pair(room=SOCKET, *, relayed=False):
    async with trio.open_nursery() as nursery:
        pair = Pair(nursery, room, relayed=relayed)
        with trio.fail_after(100):
            yield pair
        await pair.alice.close()
        await pair.bob.close()


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.aclose()


async def receive(stream, count):
    data = bytearray()
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        assert piece, f"it ended after {len(data)} bytes"
        data += piece
    return bytes(data)


async def still_works(pair):
    mine, yours = await pair.streams()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.send_all, bytes(3 * MIB))
        assert await receive(yours, 3 * MIB) == bytes(3 * MIB)
    await mine.aclose()
    await yours.aclose()


async def until_stuck():
    await trio.testing.wait_all_tasks_blocked()


# -- the promises of a stream ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relayed", [False, True], ids=["socket", "relayed"])
async def test_a_stream_keeps_the_promises_of_byte_streams(autojump_clock, relayed):
    async with a_pair(relayed=relayed) as pair:

        async def make_pair():
            mine = await pair.alice.open_stream()
            await mine.send_all(b"?")
            yours = await pair.bob.accept_stream()
            assert await yours.receive_some() == b"?"
            return mine, yours

        await check_stream(make_pair)
        await trio.sleep(2 * muxed.LINGER_SECONDS)
        assert pair.alice.streams == pair.bob.streams == 0
        for end in (pair.alice, pair.bob):
            assert (end.session.held, end.session._wide) == (0, 0)


async def test_what_libp2p_asks_of_a_stream(autojump_clock):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        await mine.write(b"hello")
        assert await yours.read(0) == b""
        assert await yours.read(3) == b"hel"
        assert await yours.read() == b"lo"
        await mine.close_write()
        with pytest.raises(MuxedStreamEOF):
            await yours.read()
        with pytest.raises(MuxedStreamClosed):
            await mine.write(b"more")
        await yours.reset()
        with pytest.raises(MuxedStreamReset):
            await mine.read(1)
        with pytest.raises(MuxedStreamReset):
            await yours.read(1)
        assert mine.set_deadline(1) is False
        await mine.close()
        assert (mine.remote, yours.remote, mine.stream_id) == (BOB, ALICE, 1)


async def test_one_task_sends_and_one_receives(autojump_clock):
    async with a_pair() as pair:
        mine, _ = await pair.streams()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.send_all, bytes(MIB))
            nursery.start_soon(mine.receive_some)
            await until_stuck()
            for call in (mine.receive_some, mine.send_eof):
                with pytest.raises(trio.BusyResourceError):
                    await call()
            with pytest.raises(trio.BusyResourceError):
                await mine.send_all(b"x")
            nursery.cancel_scope.cancel()


async def test_several_buffers_leave_in_one_go(autojump_clock):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        before = pair.alice.secured_conn.sends
        await mine.send_parts([b"head", memoryview(bytes(1000)), b"", bytearray(b"tail")])
        assert pair.alice.secured_conn.sends == before + 1
        assert await receive(yours, 1008) == b"head" + bytes(1000) + b"tail"


# -- cancelling --------------------------------------------------------------------------------------------------------


class CancelAt(trio.abc.Instrument):
    """Cancels a scope after so many steps of a task."""

    def __init__(self, task, scope, steps):
        self._task, self._scope, self._left = task, scope, steps

    def before_task_step(self, task):
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def test_what_nothing_stands_in_the_way_of_leaves_at_once(autojump_clock):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        before = pair.alice.secured_conn.sends
        assert mine.send_now([b"one ", memoryview(b"two")])
        assert pair.alice.secured_conn.sends == before + 1
        assert await receive(yours, 7) == b"one two"
        assert not mine.send_now([bytes(LARGEST_FRAME + 1)]), "too large for one frame"
        pair.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.send_all, bytes(MIB))
            await until_stuck()
            assert not mine.send_now([b"!"]), "another task is sending, and the socket is full"
            other = await pair.alice.open_stream()
            assert not other.send_now([b"!"]), "the socket is full"
            pair.let_go()
            assert await receive(yours, MIB) == bytes(MIB)
        assert mine.send_now([b"!"])
        assert await receive(yours, 1) == b"!"
        await mine.aclose()
        assert not mine.send_now([b"!"])


async def test_a_frame_can_leave_at_once(autojump_clock):
    async with a_pair() as pair:
        mine, yours = (FramedChannel(stream) for stream in await pair.streams())
        assert mine.send_now(Signed(body=b"now"), [b"pay", b"load"])
        await mine.send(Signed(body=b"then"))
        message, payload = await yours.receive(Signed, max_payload=7)
        assert (message.body, bytes(payload)) == (b"now", b"payload")
        assert (await yours.receive(Signed))[0].body == b"then"
        await yours.aclose()
        await mine.aclose()
        assert not mine.send_now(Signed(body=b"late"))
    assert not FramedChannel(stream_pair(ALICE, BOB, "/memory/1")[0]).send_now(Signed()), "a pipe always waits"


async def cancelled_at(steps, call, *arguments):
    """Calls, and cancels after so many steps; whether it was cancelled, and its result."""
    result = None
    with trio.CancelScope() as scope:
        instrument = CancelAt(trio.lowlevel.current_task(), scope, steps)
        if steps == 0:
            scope.cancel()
        trio.lowlevel.add_instrument(instrument)
        try:
            result = await call(*arguments)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught, result


DATA = bytes(range(256)) * 4096
each_step = pytest.mark.parametrize("steps", range(12))


@each_step
async def test_a_cancelled_send_has_sent_a_beginning(autojump_clock, steps):
    async with a_pair(room=16 * KIB) as pair:
        mine, yours = await pair.streams()
        received = bytearray()

        async def read():
            while data := await yours.receive_some():
                received.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await cancelled_at(steps, mine.send_all, DATA)
            await mine.send_eof()
        assert DATA.startswith(received)
        await still_works(pair)


@each_step
async def test_a_cancelled_receive_has_taken_nothing(autojump_clock, steps):
    async with a_pair(room=16 * KIB) as pair:
        mine, yours = await pair.streams()
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.send_all, DATA)
            while len(received) < len(DATA):
                cancelled, data = await cancelled_at(steps, yours.receive_some, 10_000)
                assert cancelled == (data is None)
                received += data or await yours.receive_some(70_000)
        assert received == DATA
        await still_works(pair)


@each_step
async def test_a_cancelled_receive_into_a_buffer_has_taken_nothing(autojump_clock, steps):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        room = memoryview(bytearray(len(DATA)))
        filled = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.send_all, DATA)
            while filled < len(DATA):
                _, count = await cancelled_at(steps, yours.receive_into, room[filled:])
                filled += count or await yours.receive_into(room[filled:])
        assert room == DATA


@each_step
@pytest.mark.parametrize("call", ["send_eof", "aclose"])
async def test_a_cancelled_end_is_an_end_or_can_be_tried_again(autojump_clock, steps, call):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        await cancelled_at(steps, getattr(mine, call))
        await getattr(mine, call)()
        assert await yours.receive_some() == b""
        await still_works(pair)


@each_step
async def test_cancelled_opening_and_accepting_lose_no_stream(autojump_clock, steps):
    async with a_pair() as pair:
        cancelled, opened = await cancelled_at(steps, pair.alice.open_stream)
        assert cancelled == (opened is None)
        assert pair.alice.streams == (not cancelled)
        mine = await pair.alice.open_stream()
        accepted = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.send_all, b"?")
            _, accepted = await cancelled_at(steps, pair.bob.accept_stream)
        accepted = accepted or await pair.bob.accept_stream()
        assert await accepted.receive_some() == b"?"
        await still_works(pair)


@each_step
async def test_a_cancelled_ping_is_forgotten(autojump_clock, steps):
    async with a_pair() as pair:
        await cancelled_at(steps, pair.alice.ping, 5)
        assert not pair.alice._pings
        assert await pair.alice.ping(5) >= 0


@each_step
async def test_a_connection_is_closed_also_by_a_cancelled_close(autojump_clock, steps):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        await cancelled_at(steps, pair.alice.close)
        assert pair.alice.is_closed
        with pytest.raises(trio.BrokenResourceError, match="this side has closed it"):
            await mine.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await receive(yours, 1)


@each_step
async def test_whoever_gives_up_its_turn_leaves_it_to_the_next(autojump_clock, steps):
    async with a_pair() as pair:
        (first, first_there), (second, second_there) = await pair.streams(), await pair.streams()
        pair.hold()
        await first.send_all(bytes(100 * KIB))
        assert pair.alice.blocked
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled_at, steps, first.send_all, bytes(100 * KIB))
            nursery.start_soon(second.send_all, bytes(100 * KIB))
            nursery.start_soon(receive, first_there, 100 * KIB)
            nursery.start_soon(receive, second_there, 100 * KIB)
            await until_stuck()
            pair.let_go()
        await first.aclose()
        await still_works(pair)


# -- readers and senders do not hinder each other ----------------------------------------------------------------------


async def test_a_stream_that_nobody_reads_holds_up_only_itself(autojump_clock):
    async with a_pair() as pair:
        stuck, _ = await pair.streams()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck.send_all, bytes(10 * MIB))
            await until_stuck()
            assert not pair.alice.blocked
            await still_works(pair)
            assert pair.bob.statistics().held_bytes == 256 * KIB - 1  # one byte was read
            await still_works(pair)
            nursery.cancel_scope.cancel()


async def test_a_full_socket_serves_its_senders_in_turn(autojump_clock):
    async with a_pair() as pair:
        pairs = [await pair.streams() for _ in range(8)]
        pair.hold()
        await pairs[0][0].send_all(bytes(2 * SOCKET))
        assert pair.alice.blocked
        turns = []
        send = pair.alice.session.send

        def noted(stream, parts):
            turns.append(stream.id)
            return send(stream, parts)

        pair.alice.session.send = noted
        async with trio.open_nursery() as nursery:
            for mine, yours in pairs:
                nursery.start_soon(mine.send_all, bytes(5 * LARGEST_FRAME))
                nursery.start_soon(receive, yours, 5 * LARGEST_FRAME)
            await until_stuck()
            pair.let_go()
        rounds = [turns[start : start + 8] for start in range(0, 40, 8)]
        assert all(max(Counter(one).values()) <= 2 for one in rounds), f"somebody was served out of turn: {turns}"
        assert max(Counter(turns[:24]).values()) - min(Counter(turns[:24]).values()) <= 1


async def test_a_small_message_waits_for_one_turn_of_each_other_sender(autojump_clock):
    async with a_pair() as pair:
        pairs = [await pair.streams() for _ in range(4)]
        small, _ = await pair.streams()
        order = []
        send = pair.alice.session.send
        pair.alice.session.send = lambda stream, parts: order.append(stream.id) or send(stream, parts)
        async with trio.open_nursery() as nursery:
            for mine, yours in pairs:
                nursery.start_soon(mine.send_all, bytes(4 * MIB))
                nursery.start_soon(receive, yours, 4 * MIB)
            while len(order) < 20:
                await trio.lowlevel.checkpoint()
            before = len(order)
            await small.send_all(b"small")
            assert order.index(small.stream_id) - before <= 2 * len(pairs)
            nursery.cancel_scope.cancel()


async def test_many_tasks_send_through_a_narrow_socket_and_nobody_is_forgotten(autojump_clock):
    async with a_pair(room=1000) as pair:
        async with trio.open_nursery() as nursery:
            for size in range(1, 60_000, 3001):
                mine, yours = await pair.streams()
                nursery.start_soon(mine.send_all, bytes(size))
                nursery.start_soon(receive, yours, size)
        assert not pair.alice.crowded


# -- opening and refusing ----------------------------------------------------------------------------------------------


async def test_opening_waits_while_many_streams_are_unanswered(autojump_clock):
    async with a_pair() as pair:
        opened = []

        async def open_one():
            stream = await pair.alice.open_stream()
            opened.append(stream)
            await stream.send_all(b"?")

        async with trio.open_nursery() as nursery:
            for _ in range(MOST_UNANSWERED + 10):
                nursery.start_soon(open_one)
            await until_stuck()
            assert len(opened) == MOST_UNANSWERED
            accepted = [await pair.bob.accept_stream() for _ in range(MOST_UNANSWERED)]
            for stream in accepted[:4]:
                await stream.send_all(b"!")
            opened[100].abort()
            await until_stuck()
            assert len(opened) == MOST_UNANSWERED + 5
            for stream in accepted[4:20]:
                await stream.aclose()
        assert len(opened) == MOST_UNANSWERED + 10
        assert not any(stream._state.reset for stream in opened if stream is not opened[100])


@pytest.mark.parametrize("end", ["cut", "go_away", "close"])
async def test_whoever_waits_to_open_is_told_the_end(autojump_clock, end):
    async with a_pair() as pair:
        for _ in range(MOST_UNANSWERED):
            await (await pair.alice.open_stream()).send_all(b"?")
        told = []

        async def open_one():
            with pytest.raises(MuxedConnUnavailable) as caught:
                await pair.alice.open_stream()
            told.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_one)
            nursery.start_soon(open_one)
            await until_stuck()
            if end == "cut":
                pair.alice.cut()
            else:
                await getattr(pair.bob, end)()
        assert len(told) == 2


async def test_after_going_away_open_streams_go_on(autojump_clock):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        await pair.bob.go_away()
        await until_stuck()
        assert not pair.alice.takes_streams
        with pytest.raises(MuxedConnUnavailable, match="no new streams"):
            await pair.alice.open_stream()
        await mine.send_all(b"on")
        assert await yours.receive_some() == b"on"
        assert not pair.alice.is_closed


async def test_a_connection_is_in_use_while_somebody_may_wait_on_a_stream(autojump_clock):
    async with a_pair() as pair:
        assert not pair.alice.in_use
        mine, _ = await pair.streams()
        assert pair.alice.in_use
        mine.rest(True)
        assert not pair.alice.in_use
        assert pair.bob.in_use
        other, _ = await pair.streams()
        assert pair.alice.in_use
        other.rest(True)
        mine.rest(False)
        assert pair.alice.in_use


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cut", "close", "other side cut", "other side closed", "garbage"])
async def test_the_end_wakes_everybody(autojump_clock, end):
    async with a_pair() as pair:
        told = Counter()

        async def told_of(error, call, *arguments):
            with pytest.raises(error):
                await call(*arguments)
            told[call.__name__] += 1

        full, reading, pinging = [(await pair.streams())[0] for _ in range(3)], (await pair.streams())[0], pair.alice
        pair.hold()
        async with trio.open_nursery() as nursery:
            for stream in full:
                nursery.start_soon(told_of, trio.BrokenResourceError, stream.send_all, bytes(MIB))
            nursery.start_soon(told_of, trio.BrokenResourceError, reading.receive_some)
            nursery.start_soon(told_of, trio.BrokenResourceError, pinging.ping, 50)
            nursery.start_soon(told_of, MuxedConnUnavailable, pair.alice.accept_stream)
            await until_stuck()
            assert pair.alice.blocked
            if end == "garbage":
                pair.back.put(b"\xff" * 100)
            else:
                side = pair.bob if end.startswith("other") else pair.alice
                side.cut() if "cut" in end else await side.close()
        assert told == {"send_all": 3, "receive_some": 1, "ping": 1, "accept_stream": 1}
        assert pair.alice.failure
        assert pair.alice.streams == 0
        with pytest.raises(trio.BrokenResourceError):
            await pair.alice.ping(1)
        await pair.alice.event_closed.wait()


async def test_what_arrived_before_the_end_can_be_read(autojump_clock):
    async with a_pair() as pair:
        (mine, yours), (ended, ended_there) = await pair.streams(), await pair.streams()
        await mine.send_all(b"before")
        await ended.send_all(b"all of it")
        await ended.send_eof()
        await until_stuck()
        pair.alice.cut()
        await pair.bob.event_closed.wait()
        assert await yours.receive_some() == b"before"
        with pytest.raises(trio.BrokenResourceError, match="has closed the connection"):
            await yours.receive_some()
        assert await receive(ended_there, 9) == b"all of it"
        assert await ended_there.receive_some() == b""
        with pytest.raises(MuxedConnUnavailable, match="is over"):
            await pair.bob.open_stream()


@pytest.mark.parametrize("relayed", [False, True], ids=["socket", "relayed"])
async def test_what_was_sent_before_a_close_still_leaves(autojump_clock, relayed):
    async with a_pair(relayed=relayed) as pair:
        mine, yours = await pair.streams()
        pair.hold()
        await mine.send_all(DATA[: 100 * KIB])
        assert pair.alice.blocked
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.alice.close)
            await until_stuck()
            pair.let_go()
        assert await receive(yours, 100 * KIB) == DATA[: 100 * KIB]


async def test_closing_does_not_wait_for_a_side_that_reads_nothing(autojump_clock):
    async with a_pair() as pair:
        mine, _ = await pair.streams()
        pair.hold()
        await mine.send_all(bytes(2 * SOCKET))
        started = trio.current_time()
        await pair.alice.close()
        assert trio.current_time() - started == pytest.approx(muxed.CLOSE_TIMEOUT)


async def test_closing_amid_transfers_both_ways(autojump_clock):
    async with a_pair() as pair:
        broken = []

        async def transfer(here, there):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(here.send_all, bytes(50 * MIB))
                    while await there.receive_some():
                        await trio.lowlevel.checkpoint()
            except* trio.BrokenResourceError:
                broken.append(here)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                mine, yours = await pair.streams()
                nursery.start_soon(transfer, mine, yours)
                nursery.start_soon(transfer, yours, mine)
            for _ in range(200):
                await trio.lowlevel.checkpoint()
            await pair.bob.close()
        assert len(broken) == 6


async def test_a_closed_stream_is_reset_when_the_other_side_does_not_end_it(autojump_clock):
    async with a_pair() as pair:
        mine, yours = await pair.streams()
        await mine.aclose()
        assert await yours.receive_some() == b""
        assert pair.alice.streams == pair.bob.streams == 1
        await trio.sleep(muxed.LINGER_SECONDS + 0.1)
        assert pair.alice.streams == pair.bob.streams == 0
        with pytest.raises(trio.BrokenResourceError, match="the other side has reset it"):
            await yours.send_all(b"x")


async def test_streams_that_end_in_time_are_not_waited_for(autojump_clock):
    async with a_pair() as pair:
        for _ in range(20):
            mine, yours = await pair.streams()
            await mine.aclose()
            assert len(pair.alice._lingering) == 1
            await yours.aclose()
            await until_stuck()
            assert not pair.alice._lingering


async def test_on_close_is_called_once_it_is_over(autojump_clock):
    async with a_pair() as pair:
        called = trio.Event()

        async def note():
            assert pair.alice.event_closed.is_set()
            called.set()
            await trio.lowlevel.checkpoint()

        pair.alice.on_close = note
        await pair.streams()
        assert pair.alice.is_established
        pair.alice.cut()
        pair.alice.cut()
        await called.wait()
        assert not pair.alice.is_established


async def test_a_defect_costs_only_its_connection(autojump_clock):
    async with a_pair() as pair:
        mine, _ = await pair.streams()

        def fail(data, now):
            raise ZeroDivisionError

        pair.bob.session.receive = fail
        await mine.send_all(b"x")
        await pair.bob.event_closed.wait()
        assert "ZeroDivisionError" in pair.bob.failure


async def test_round_trips_are_measured_and_statistics_told(autojump_clock):
    async with a_pair() as pair:
        assert pair.alice.rtt is None
        assert await pair.alice.ping(1) == 0
        assert pair.alice.rtt == 0
        pair.hold()
        with pytest.raises(trio.TooSlowError):
            await pair.alice.ping(1)
        pair.let_go()
        await pair.streams()
        told = pair.bob.statistics()
        assert (told.streams, told.carried, told.held_bytes, told.blocked, told.relayed) == (1, 1, 0, False, False)


async def test_who_breaks_the_rules_is_told_and_hung_up_on(autojump_clock):
    async with trio.open_nursery() as nursery:
        there, back = Way(SOCKET), Way(SOCKET)
        bob = MuxedConnection(Plain(there, back, dials=False), ID.from_base58(ALICE))
        nursery.start_soon(bob.start)
        there.put(frames.frame(frames.DATA, frames.SYN, 2, 0))
        await bob.event_closed.wait()
        assert bytes(back.data) == frames.frame(frames.GO_AWAY, 0, 0, frames.PROTOCOL_ERROR)
        assert "wrong side" in bob.failure
