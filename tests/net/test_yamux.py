"""Yamux: what both sides say, what a side holds, and what happens when the other one breaks the rules."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from hivemind_p2p.errors import BusyError, ProtocolError
from hivemind_p2p.net import yamux_frames as frames
from hivemind_p2p.net import yamux_limits as limits
from hivemind_p2p.net.yamux import Session
from hivemind_p2p.net.yamux_frames import FIRST_WINDOW, HEADER, HEADER_BYTES, LARGEST_NUMBER, frame

KIB, MIB = 1 << 10, 1 << 20


def sent_by(session):
    """What a session has to say, as the other side would receive it."""
    return b"".join(session.output())


def frames_of(data):
    """(type, flags, stream, value) of each frame; a data frame's value is its data."""
    found = []
    while data:
        _, kind, flags, number, value = HEADER.unpack_from(data)
        data = data[HEADER_BYTES:]
        if kind == frames.DATA:
            value, data = data[:value], data[value:]
        found.append((kind, flags, number, value))
    return found


def data_frame(number, data, flags=0):
    return frame(frames.DATA, flags, number, len(data)) + data


def send(session, stream, data):
    """Sends as much as goes; how much that was."""
    views, sent = [memoryview(data)], 0
    while sent < len(data) and (count := session.send(stream, [views[0][sent:]])):
        sent += count
    return sent


def read_all(session, stream):
    data = b""
    while stream.unread:
        data += session.read(stream, FIRST_WINDOW)
    return data


class Two:
    """A dialler and a listener, and what has been said between them but not heard."""

    def __init__(self):
        self.alice, self.bob = Session(dialled=True), Session(dialled=False)
        self.now = 0.0

    def exchange(self):
        """Until nobody has anything to say; what the two have received."""
        ours, theirs = [], []
        while self.alice.has_output or self.bob.has_output:
            theirs.append(self.bob.receive(sent_by(self.alice), self.now))
            ours.append(self.alice.receive(sent_by(self.bob), self.now))
        return ours, theirs

    def stream(self, data=b"hello"):
        """A stream on which Alice has said something."""
        stream = self.alice.open()
        send(self.alice, stream, data)
        _, received = self.exchange()
        return stream, next(opened for each in received for opened in each.opened)


@pytest.fixture
def two():
    return Two()


# -- opening -----------------------------------------------------------------------------------------------------------


def test_the_first_frame_opens_a_stream_and_the_first_answer_acknowledges_it(two):
    mine = two.alice.open()
    assert not two.alice.has_output, "the other side learns of it with the first frame"
    send(two.alice, mine, b"hello")
    said = sent_by(two.alice)
    assert frames_of(said) == [(frames.DATA, frames.SYN, 1, b"hello")]
    (yours,) = two.bob.receive(said, 0).opened
    assert not two.bob.has_output, "nothing is acknowledged before there is something to say"
    assert read_all(two.bob, yours) == b"hello"
    send(two.bob, yours, b"hi")
    said = sent_by(two.bob)
    assert frames_of(said) == [(frames.DATA, frames.ACK, 1, b"hi")]
    two.alice.receive(said, 0)
    assert read_all(two.alice, mine) == b"hi"


def test_each_side_has_numbers_of_its_own(two):
    assert [two.alice.open().id for _ in range(3)] == [1, 3, 5]
    assert [two.bob.open().id for _ in range(3)] == [2, 4, 6]


def test_a_stream_can_be_announced_before_there_is_anything_to_send(two):
    mine = two.alice.open()
    two.alice.announce(mine)
    two.alice.announce(mine)
    assert frames_of(sent_by(two.alice)) == [(frames.WINDOW_UPDATE, frames.SYN, 1, 0)]


def test_a_stream_that_was_never_announced_ends_without_a_word(two):
    for give_up in (two.alice.reset, two.alice.abandon):
        mine = two.alice.open()
        give_up(mine)
        assert mine.over
    assert not two.alice.has_output
    assert not two.alice.streams
    assert not two.alice.unanswered


def test_no_more_streams_than_can_be_numbered(two):
    two.alice._next_id = LARGEST_NUMBER
    assert two.alice.takes_streams
    assert two.alice.open().id == LARGEST_NUMBER
    assert not two.alice.takes_streams
    with pytest.raises(BusyError, match="number"):
        two.alice.open()


def test_streams_without_an_answer_are_counted(two):
    streams = [two.alice.open() for _ in range(4)]
    for stream in streams:
        send(two.alice, stream, b"?")
    _, received = two.exchange()
    theirs = [opened for each in received for opened in each.opened]
    assert two.alice.unanswered == two.bob.to_answer == 4
    send(two.bob, theirs[0], b"!")
    two.bob.reset(theirs[1])
    two.exchange()
    assert two.alice.unanswered == 2
    two.alice.reset(streams[2])
    two.alice.break_all()
    assert two.alice.unanswered == 0


def test_the_streams_that_nobody_has_answered_are_bounded(two):
    most = limits.MOST_UNANSWERED
    streams = [two.alice.open() for _ in range(most + 1)]
    for stream in streams:
        send(two.alice, stream, b"?")
    two.exchange()
    assert streams[-1].reset, "one too many is refused"
    assert not streams[-2].reset
    send(two.bob, two.bob.streams[1], b"!")
    another = two.alice.open()
    send(two.alice, another, b"?")
    two.exchange()
    assert not another.reset, "an answer makes room"


def test_the_streams_that_are_open_are_bounded(two):
    for _ in range(limits.MOST_STREAMS):
        _, yours = two.stream()
        send(two.bob, yours, b"!")
        two.exchange()
    mine = two.alice.open()
    send(two.alice, mine, b"?")
    two.exchange()
    assert mine.reset
    two.bob.reset(two.bob.streams[1])
    two.exchange()
    another = two.alice.open()
    send(two.alice, another, b"?")
    two.exchange()
    assert not another.reset


@pytest.mark.parametrize("number", [0, 2, 1])
def test_a_stream_opened_twice_or_by_the_wrong_side_ends_the_connection(number):
    bob = Session(dialled=False)
    bob.receive(frame(frames.WINDOW_UPDATE, frames.SYN, 1, 0), 0)
    with pytest.raises(ProtocolError, match="opened twice, or by the wrong side"):
        bob.receive(frame(frames.WINDOW_UPDATE, frames.SYN, number, 0), 0)


# -- ending ------------------------------------------------------------------------------------------------------------


def test_an_end_leaves_the_other_direction_open(two):
    mine, yours = two.stream()
    two.alice.end(mine)
    two.alice.end(mine)
    assert frames_of(sent_by(two.alice)) == [(frames.DATA, frames.FIN, 1, b"")]
    two.bob.receive(frame(frames.DATA, frames.FIN, 1, 0), 0)
    assert yours.end_received
    assert not yours.end_sent
    send(two.bob, yours, b"answer")
    two.bob.end(yours)
    two.exchange()
    assert read_all(two.alice, mine) == b"answer"
    assert not two.alice.streams
    assert not two.bob.streams


def test_an_end_or_a_reset_is_never_hidden_behind_an_acknowledgement(two):
    _, yours = two.stream()
    two.bob.end(yours)
    assert frames_of(sent_by(two.bob)) == [
        (frames.WINDOW_UPDATE, frames.ACK, 1, 0),
        (frames.DATA, frames.FIN, 1, b""),
    ]
    two.bob = Session(dialled=False)
    (yours,) = two.bob.receive(frame(frames.WINDOW_UPDATE, frames.SYN, 1, 0), 0).opened
    two.bob.reset(yours)
    assert frames_of(sent_by(two.bob)) == [(frames.WINDOW_UPDATE, frames.RST, 1, 0)]


def test_a_reset_loses_what_lies_unread(two):
    mine, yours = two.stream(b"unread")
    assert two.bob.held == 6
    two.alice.reset(mine)
    two.exchange()
    assert yours.reset
    assert not yours.unread
    assert two.bob.held == 0


def test_a_reset_after_the_end_leaves_what_lies_unread(two):
    mine, yours = two.stream(b"unread")
    two.alice.end(mine)
    two.alice.reset(mine)
    two.exchange()
    assert yours.reset
    assert two.bob.sendable(yours) == 0
    assert read_all(two.bob, yours) == b"unread"
    assert two.bob.held == 0


def test_an_abandoned_stream_throws_a_little_away_and_then_says_stop(two):
    mine, yours = two.stream(b"unread")
    two.bob.abandon(yours)
    assert two.bob.held == 0
    two.exchange()
    assert mine.end_received
    assert not mine.reset
    send(two.alice, mine, bytes(limits.LINGER_BYTES - len(b"unread")))
    two.exchange()
    assert not mine.reset
    send(two.alice, mine, b"!")
    two.exchange()
    assert mine.reset
    assert two.bob.held == 0
    assert not two.bob.streams


def test_who_waits_for_the_window_of_an_abandoned_stream_is_told_at_once(two):
    mine, yours = two.stream(b"!")
    send(two.bob, yours, b"too much")
    send(two.alice, mine, bytes(FIRST_WINDOW - 1))
    two.exchange()
    assert two.alice.sendable(mine) == 0
    two.bob.abandon(yours)
    two.exchange()
    assert mine.reset
    assert mine.end_received
    assert read_all(two.alice, mine) == b"too much"


def test_what_arrives_late_for_a_stream_that_is_over_is_passed_over(two):
    mine, yours = two.stream()
    two.bob.reset(yours)
    for _ in range(5000):
        send(two.alice, mine, b"late")
    send(two.alice, mine, bytes(100 * KIB))
    late = sent_by(two.alice) + frame(frames.WINDOW_UPDATE, 0, 1, 5) + frame(frames.DATA, frames.FIN, 1, 0)
    received = two.bob.receive(late, 0)
    assert not received.opened
    assert not received.changed


def test_a_number_given_anew_is_another_stream(two):
    mine, yours = two.stream()
    two.bob.end(yours)
    two.alice.end(mine)
    two.exchange()
    (another,) = two.bob.receive(frame(frames.WINDOW_UPDATE, frames.SYN, 1, 0), 0).opened
    two.bob.reset(yours)
    assert two.bob.streams == {1: another}
    assert not two.bob.has_output


def test_a_lost_connection_leaves_what_has_arrived(two):
    mine, yours = two.stream(b"arrived")
    assert two.bob.break_all() == [yours]
    assert two.alice.break_all() == [mine]
    assert yours.reset
    assert not two.bob.streams
    assert read_all(two.bob, yours) == b"arrived"
    assert two.bob.held == 0
    assert not two.bob.has_output


def test_after_going_away_no_streams_are_taken_but_those_that_are_open_go_on(two):
    mine, yours = two.stream()
    two.bob.go_away()
    two.bob.go_away()
    (received, *_), _ = two.exchange()
    assert received.gone_away == frames.NORMAL
    assert not two.alice.takes_streams
    with pytest.raises(BusyError, match="no new streams"):
        two.alice.open()
    raced = frame(frames.WINDOW_UPDATE, frames.SYN, 3, 0)
    assert not two.bob.receive(raced, 0).opened
    assert frames_of(sent_by(two.bob)) == [(frames.WINDOW_UPDATE, frames.RST, 3, 0)]
    send(two.bob, yours, b"on")
    two.exchange()
    assert read_all(two.alice, mine) == b"on"


# -- windows -----------------------------------------------------------------------------------------------------------


def test_no_more_is_sent_than_was_granted(two):
    mine, yours = two.stream(b"!")
    assert send(two.alice, mine, bytes(MIB)) == FIRST_WINDOW - 1
    assert two.alice.sendable(mine) == 0
    two.exchange()
    assert yours.held == two.bob.held == FIRST_WINDOW


def test_a_reader_that_keeps_up_gets_a_wider_window_and_one_that_does_not_keeps_its_own(two):
    mine, yours = two.stream(b"!")
    total = 1
    while yours.window < limits.WIDEST_WINDOW:
        total += send(two.alice, mine, bytes(limits.WIDEST_WINDOW))
        two.exchange()
        read_all(two.bob, yours)
        two.exchange()
        assert yours.credit + yours.held + yours.consumed == yours.window
    assert total < 2 * limits.WIDEST_WINDOW
    assert two.bob._wide == yours.window - FIRST_WINDOW
    two.bob.reset(yours)
    assert two.bob._wide == 0

    mine, yours = two.stream(b"!")
    send(two.alice, mine, bytes(FIRST_WINDOW))
    two.exchange()
    for _ in range(FIRST_WINDOW - 1):
        if not two.bob.has_output:
            two.bob.read(yours, 1)
    assert yours.window == FIRST_WINDOW
    assert yours.held


def test_all_wide_windows_together_are_bounded(two):
    streams = [two.stream(b"!") for _ in range(12)]
    for _ in range(8):
        for mine, yours in streams:
            send(two.alice, mine, bytes(limits.WIDEST_WINDOW))
            two.exchange()
            read_all(two.bob, yours)
            two.exchange()
    widths = [yours.window for _, yours in streams]
    assert max(widths) == limits.WIDEST_WINDOW
    assert two.bob._wide == sum(width - FIRST_WINDOW for width in widths) <= limits.WIDE_BYTES


def test_more_data_than_was_granted_ends_the_connection(two):
    _, yours = two.stream(b"!")
    with pytest.raises(ProtocolError, match="262144 bytes of data where 262143 were granted"):
        two.bob.receive(frame(frames.DATA, 0, 1, FIRST_WINDOW), 0)
    assert yours.held == 1


def test_a_window_does_not_grow_beyond_its_number(two):
    mine, _ = two.stream(b"!")
    for _ in range(3):
        two.alice.receive(frame(frames.WINDOW_UPDATE, frames.ACK, 1, LARGEST_NUMBER), 0)
    assert two.alice.sendable(mine) == LARGEST_NUMBER


def test_what_is_put_back_is_read_again_and_counts_once(two):
    mine, yours = two.stream(b"hello world")
    taken = two.bob.read(yours, 11)
    two.bob.unread(yours, taken[5:])
    assert two.bob.held == yours.held == 6
    assert read_all(two.bob, yours) == b" world"
    assert (two.bob.held, yours.consumed) == (0, 11)
    send(two.alice, mine, bytes(FIRST_WINDOW // 2))
    two.exchange()
    two.bob.unread(yours, two.bob.read(yours, FIRST_WINDOW))
    two.exchange()
    assert yours.credit + yours.held + yours.consumed == yours.window
    assert two.alice.sendable(mine) == yours.credit
    two.bob.abandon(yours)
    two.bob.unread(yours, b"nobody wants it")
    assert two.bob.held == 0


def test_reading_into_a_buffer_takes_several_pieces(two):
    mine, yours = two.stream(b"a" * 600)
    send(two.alice, mine, b"b" * 600)
    two.exchange()
    place = memoryview(bytearray(1000))
    assert two.bob.read_into(yours, place) == 1000
    assert place == b"a" * 600 + b"b" * 400
    assert two.bob.read(yours, 1000) == b"b" * 200


# -- memory ------------------------------------------------------------------------------------------------------------


def kept_by(stream):
    """Bytes of memory that a stream's pieces keep."""
    wholes = {id(piece.obj): len(piece.obj) for piece in stream.unread}  # several may share one
    return sum(wholes.values()) + 250 * len(stream.unread)


def test_a_window_of_single_bytes_is_not_many_objects(two):
    _, yours = two.stream(b"!")
    two.bob.receive(data_frame(1, b"x") * (FIRST_WINDOW - 1), 0)
    assert yours.held == FIRST_WINDOW
    assert kept_by(yours) < 2 * FIRST_WINDOW
    assert read_all(two.bob, yours) == b"!" + b"x" * (FIRST_WINDOW - 1)


@pytest.mark.parametrize("size", [257, 513, 1000])
def test_awkward_pieces_cost_no_more_than_twice_their_size(two, size):
    _, yours = two.stream(b"!")
    for _ in range(200):
        two.bob.receive(data_frame(1, bytes(size)) + data_frame(1, b"x"), 0)
    assert kept_by(yours) < 2 * yours.held


def test_what_is_little_does_not_keep_what_is_large(two):
    _, yours = two.stream(b"!")
    two.bob.read(yours, 1)
    two.bob.receive(data_frame(1, b"x" * 600) + data_frame(99, bytes(200 * KIB)), 0)
    assert kept_by(yours) < 2000
    two.bob.read(yours, 600)
    two.bob.receive(data_frame(1, b"x" * 100 * KIB), 0)
    two.bob.read(yours, 100 * KIB - 1)
    assert kept_by(yours) < 2000, "the rest of what was read keeps all of it"


def test_where_much_is_held_it_is_held_tightly(two):
    held = []
    for _ in range(40):
        _, yours = two.stream(b"!")
        two.bob.receive(data_frame(yours.id, bytes(200 * KIB)) + data_frame(9999, bytes(900 * KIB)), 0)
        held.append(yours)
    loose = sum(kept_by(yours) > 2 * yours.held for yours in held)
    assert loose <= limits.LOOSE_BYTES // (200 * KIB) + 1


def test_a_connection_holds_no_more_than_it_may(two, monkeypatch):
    monkeypatch.setattr("hivemind_p2p.net.yamux.MOST_UNREAD", MIB)
    streams = [two.stream(bytes(FIRST_WINDOW)) for _ in range(5)]
    assert two.bob.held == MIB
    (_, last) = streams[-1]
    assert last.reset
    assert "holds too much" in last.reason
    read_all(two.bob, streams[0][1])
    two.exchange()
    _, yours = two.stream(bytes(FIRST_WINDOW))
    assert not yours.reset


# -- pings and abuse ---------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_value(two):
    first, second = two.alice.ping(), two.alice.ping()
    assert first != second
    (received, *_), _ = two.exchange()
    assert received.pongs == [first, second]


@pytest.mark.parametrize(
    "flood",
    [
        frame(frames.PING, frames.SYN, 0, 7),
        frame(frames.PING, frames.ACK, 0, 7),
        frame(frames.PING, 0, 0, 7),
        frame(frames.GO_AWAY, 0, 0, 0),
        frame(frames.DATA, 0, 1, 0),
        frame(frames.WINDOW_UPDATE, 0, 1, 0),
        frame(frames.WINDOW_UPDATE, 0, 77, 5),
        frame(frames.DATA, 0, 77, 1) + b"x",
        frame(frames.DATA, frames.RST, 77, 0),
        frame(frames.DATA, frames.FIN, 1, 0),
    ],
    ids=lambda flood: flood.hex(),
)
def test_a_flood_of_frames_that_do_no_work_ends_the_connection(two, flood):
    two.stream()
    at_once = int(limits.WORTHLESS_AT_ONCE)
    two.bob.receive(flood * (at_once // 2), 0)
    with pytest.raises(ProtocolError, match="do no work"):
        two.bob.receive(flood * at_once, 0)


def test_a_flood_of_streams_that_are_opened_and_reset_ends_the_connection():
    bob = Session(dialled=False)
    flood = b"".join(
        frame(frames.DATA, frames.SYN, number, 0) + frame(frames.DATA, frames.RST, number, 0)
        for number in range(1, 10_001, 2)
    )
    with pytest.raises(ProtocolError, match="do no work"):
        bob.receive(flood, 0)


def test_worthless_frames_are_forgiven_with_time(two):
    for second in range(100):
        two.bob.receive(frame(frames.PING, frames.SYN, 0, 7) * int(limits.WORTHLESS_A_SECOND), second)
        two.bob.output()


def test_windows_for_streams_that_have_ended_are_forgiven_sooner(two):
    mine, yours = two.stream()
    two.alice.end(mine)
    two.bob.end(yours)
    two.exchange()
    late = frame(frames.WINDOW_UPDATE, 0, 1, 5)
    two.bob.receive(late * 15_000, 0)
    with pytest.raises(ProtocolError, match="do no work"):
        two.bob.receive(late * 2000, 0)


def test_who_never_fetches_answers_is_cut(two):
    for number in range(1, 2 * limits.MOST_FRAMES_WAITING + 2, 2):
        (opened,) = two.bob.receive(data_frame(number, b"?", frames.SYN), number).opened
        two.bob.reset(opened)
    with pytest.raises(ProtocolError, match="without reading the answers"):
        two.bob.receive(data_frame(number + 2, b"?", frames.SYN), number)


@pytest.mark.parametrize("bad", [b"\1\0", b"\0\4"])
def test_a_frame_of_another_version_or_type_ends_the_connection(bad):
    with pytest.raises(ProtocolError, match="a frame of version"):
        Session(dialled=False).receive(bad + bytes(10), 0)


def test_data_after_the_end_ends_the_connection(two):
    mine, _ = two.stream()
    two.alice.end(mine)
    two.exchange()
    with pytest.raises(ProtocolError, match="after the end"):
        two.bob.receive(data_frame(1, b"more"), 0)


def test_a_data_frame_can_open_and_end_a_stream_at_once():
    bob = Session(dialled=False)
    received = bob.receive(data_frame(1, b"all", frames.SYN | frames.FIN), 0)
    (yours,) = received.opened
    assert yours.end_received
    assert read_all(bob, yours) == b"all"
    bob.end(yours)
    assert not bob.streams


# -- any bytes ---------------------------------------------------------------------------------------------------------

RANDOM_FRAMES = 24_000


def random_frame(chance):
    kind = chance.choice((0, 0, 0, 1, 1, 2, 3))
    flags = chance.choice((0, 0, 1, 1, 2, 4, 8, chance.randrange(16)))
    number = chance.choice((chance.randrange(1, 30), chance.randrange(64), chance.getrandbits(32)))
    value = chance.choice((0, chance.randrange(100), chance.randrange(5000), chance.getrandbits(18)))
    body = chance.randbytes(value) if kind == frames.DATA else b""
    whole = frame(kind, flags, number, value) + body
    if chance.random() < 0.01:
        place = chance.randrange(len(whole))
        whole = whole[:place] + bytes([chance.randrange(256)]) + whole[place + 1 :]
    return whole[: chance.randrange(len(whole) + 1)] if chance.random() < 0.002 else whole


def test_whatever_arrives_only_breaks_the_connection_it_came_on():
    chance = random.Random(7)
    session, refused, now = Session(dialled=False), 0, 0.0
    for _ in range(RANDOM_FRAMES):
        now += 0.001
        try:
            received = session.receive(random_frame(chance), now)
        except ProtocolError:
            refused += 1
            session.break_all()
            session = Session(dialled=False)
            continue
        for stream in received.opened + received.changed:
            act = chance.random()
            if act < 0.3 and stream.unread:
                session.read(stream, chance.randrange(1, 10_000))
            elif act < 0.4:
                send(session, stream, bytes(chance.randrange(1000)))
            elif act < 0.45:
                session.abandon(stream)
            elif act < 0.5:
                session.reset(stream)
        session.output()
        assert 0 <= session.held <= limits.MOST_UNREAD
        assert len(session.streams) <= limits.MOST_STREAMS
    assert refused > 100


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_bytes_are_understood_or_refused(pieces):
    session = Session(dialled=True)
    try:
        for piece in pieces:
            session.receive(piece, 0)
    except ProtocolError:
        return
    assert len(session._head) < HEADER_BYTES


# -- two sessions ------------------------------------------------------------------------------------------------------


class Side:
    def __init__(self, *, dialled):
        self.session = Session(dialled=dialled)
        self.sent = {}
        self.got = {}
        self.ended = set()
        self.broken = set()
        self.streams = {}
        self.way = bytearray()
        self.pings = []
        self.pongs = []


class TwoSessions(RuleBasedStateMachine):
    """Two sides that do whatever they like, with bytes between them that arrive in any pieces."""

    streams = Bundle("streams")

    def __init__(self):
        super().__init__()
        self.sides = (Side(dialled=True), Side(dialled=False))
        self.random = random.Random(0)

    def arrive(self, who, count):
        """Some of what the other side has sent arrives."""
        other, side = self.sides[1 - who], self.sides[who]
        other.way += sent_by(other.session)
        data, other.way = bytes(other.way[:count]), other.way[count:]
        received = side.session.receive(data, 0)
        for stream in received.opened:
            side.streams[stream.id] = stream
        side.pongs += received.pongs

    def read(self, who, number, most):
        side = self.sides[who]
        stream = side.streams.get(number)
        if stream is None or not stream.unread:
            return
        data = side.session.read(stream, most)
        assert 0 < len(data) <= most
        side.got[number] = side.got.get(number, b"") + data

    @rule(target=streams, who=st.integers(0, 1))
    def open(self, who):
        side = self.sides[who]
        stream = side.session.open()
        side.streams[stream.id] = stream
        side.session.announce(stream)
        return stream.id

    @rule(who=st.integers(0, 1), number=streams, size=st.integers(1, 400_000))
    def send(self, who, number, size):
        side = self.sides[who]
        stream = side.streams.get(number)
        if stream is None or stream.end_sent or stream.reset:
            return
        data = self.random.randbytes(size)
        window = side.session.sendable(stream)
        sent = send(side.session, stream, data)
        assert sent == min(size, window)
        side.sent[number] = side.sent.get(number, b"") + data[:sent]

    @rule(who=st.integers(0, 1), count=st.one_of(st.integers(0, 40), st.integers(0, 500_000)))
    def something_arrives(self, who, count):
        self.arrive(who, count)

    @rule(who=st.integers(0, 1), number=streams, most=st.one_of(st.integers(1, 30), st.integers(1, 400_000)))
    def read_some(self, who, number, most):
        self.read(who, number, most)

    @rule(who=st.integers(0, 1), number=streams, most=st.integers(1, 3000))
    def read_and_put_back(self, who, number, most):
        side = self.sides[who]
        stream = side.streams.get(number)
        if stream is not None and stream.unread:
            side.session.unread(stream, side.session.read(stream, most))

    @rule(who=st.integers(0, 1), number=streams)
    def end(self, who, number):
        side = self.sides[who]
        if number in side.streams:
            side.session.end(side.streams[number])
            side.ended.add(number)

    @rule(who=st.integers(0, 1), number=consumes(streams), gently=st.booleans())
    def give_up(self, who, number, gently):
        side = self.sides[who]
        if number in side.streams:
            (side.session.abandon if gently else side.session.reset)(side.streams[number])
            for each in self.sides:
                each.broken.add(number)

    @rule(who=st.integers(0, 1))
    def ping(self, who):
        side = self.sides[who]
        side.pings.append(side.session.ping())

    @precondition(lambda self: any(side.session.held for side in self.sides))
    @rule()
    def everything_is_read(self):
        for who, side in enumerate(self.sides):
            for number, stream in side.streams.items():
                while stream.unread:
                    self.read(who, number, 1 << 20)

    @invariant()
    def books_balance(self):
        for side in self.sides:
            session = side.session
            known = side.streams.values()
            assert session.held == sum(stream.held for stream in known)
            assert all(stream.held == sum(map(len, stream.unread)) for stream in known)
            living = session.streams.values()
            assert session._wide == sum(stream.window - FIRST_WINDOW for stream in living)
            for stream in living:
                arriving = session._body_left if session._body_of is stream else 0
                thrown_away = stream.window - stream.credit - stream.held - stream.consumed - arriving
                assert thrown_away == 0 or stream.unwanted
                assert stream.credit >= 0
            assert session.unanswered == sum(not stream.answered for stream in living)
            assert session._theirs_unanswered == sum(bool(stream.due & frames.ACK) for stream in living)

    def teardown(self):
        for _ in range(200):
            for who in (0, 1):
                self.arrive(who, 1 << 30)
            self.everything_is_read()
            if not any(side.way or side.session.has_output for side in self.sides):
                break
        for who, side in enumerate(self.sides):
            other = self.sides[1 - who]
            assert side.pongs == side.pings
            for number, sent in side.sent.items():
                got = other.got.get(number, b"")
                if number in side.broken:
                    assert sent.startswith(got)
                else:
                    assert got == sent
                    assert other.streams[number].end_received == (number in side.ended)
            for stream in side.streams.values():
                side.session.reset(stream)
            session = side.session
            counts = (session.held, session._wide, session._theirs, session._theirs_unanswered, session.unanswered)
            assert counts == (0, 0, 0, 0, 0)
            assert not session.streams


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_header_is_twelve_bytes():
    assert HEADER.format == ">BBHII"
    assert struct.calcsize(HEADER.format) == HEADER_BYTES == 12
