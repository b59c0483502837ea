"""Frames: what goes in comes out, and what a liar, a dying peer or a cancelled task leaves is told apart."""

import struct

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hivemind_p2p.errors import (
    HivemindError,
    NoRecordError,
    PaymentRequiredError,
    ProtocolError,
    RemoteError,
    StreamClosedError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Channel
from hivemind_p2p.net import framing
from hivemind_p2p.net.framing import FramedChannel
from hivemind_p2p.net.pipe import WINDOW, stream_pair
from hivemind_p2p.proto.common_pb2 import Failure, Signed

ALICE, BOB = Identity(b"a" * 32).peer_id, Identity(b"b" * 32).peer_id
PROTOCOL = "/test/frames/1"
MEGABYTE = 1 << 20


def streams():
    return stream_pair(ALICE, BOB, PROTOCOL)


def channels(**arguments):
    opened, accepted = streams()
    return FramedChannel(opened, **arguments), FramedChannel(accepted, **arguments)


def run(check, *arguments):
    trio.run(check, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))


def prefix(kind, header_length, payload_length):
    return struct.pack(">BII", kind, header_length, payload_length)


def test_it_is_a_channel():
    channel: Channel = channels()[0]
    assert (channel.remote, channel.protocol) == (BOB, PROTOCOL)


frames = st.tuples(st.binary(max_size=200), st.lists(st.binary(max_size=3000), max_size=4))


@settings(max_examples=60, deadline=None)
@given(st.lists(frames, max_size=5), st.integers(1, 5000))
@example([(b"x", [bytes(framing.READ_SIZE), b"y", bytes(3 * framing.READ_SIZE), b"", b"z"])], 70_000)
def test_what_goes_in_comes_out(sent, step):
    async def check():
        near, far = channels()
        far._stream.receive_some = limited(far._stream.receive_some, step)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, near)
            for body, parts in sent:
                header, payload = await far.receive(Signed, max_payload=MEGABYTE)
                assert (header.body, bytes(payload)) == (body, b"".join(parts))
            with pytest.raises(StreamClosedError, match="ended between messages"):
                await far.receive(Signed)
            assert far.ended

    async def send_all(channel):
        for body, parts in sent:
            await channel.send(Signed(body=body), parts)
        await channel.send_eof()

    run(check)


def limited(receive_some, step):
    return lambda max_bytes=None: receive_some(min(max_bytes or step, step))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
@example(prefix(0, 0xFFFFFFFF, 0))
@example(prefix(0, 0, 0xFFFFFFFF))
@example(prefix(1, 2, 0) + b"\xff\xff")
def test_random_bytes_raise_only_what_is_promised(noise):
    run(feed, noise)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_frames_raise_only_what_is_promised(data):
    body = Signed(body=b"hello", signature=b"s" * 64).SerializeToString()
    frame = bytearray(prefix(0, len(body), 5) + body + b"world")
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    run(feed, bytes(frame[:cut]))


async def feed(noise):
    opened, accepted = streams()
    await opened.send_all(noise)
    await opened.send_eof()
    channel = FramedChannel(accepted, max_header=1000)
    with pytest.raises(HivemindError):
        await receive_until_over(channel)


async def receive_until_over(channel):
    while True:
        await channel.receive(Signed, max_payload=100)


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (prefix(2, 0, 0), "unknown kind 2"),
        (prefix(0, 1001, 0), "header of 1001 bytes, over the 1000"),
        (prefix(0, 0, 101), "payload of 101 bytes, over the 100"),
        (prefix(1, 0, 1), "payload of 1 bytes, over the 0"),
        (prefix(0, 2, 0) + b"\xff\xff", "no Signed"),
        (prefix(1, 2, 0) + b"\xff\xff", "no Failure"),
    ],
)
async def test_a_malformed_frame_names_the_peer_and_ends_the_reading(frame, complaint):
    opened, accepted = streams()
    await opened.send_all(frame)
    channel = FramedChannel(accepted, max_header=1000)
    with pytest.raises(ProtocolError, match=complaint) as caught:
        await channel.receive(Signed, max_payload=100)
    assert ALICE in caught.value.message
    with pytest.raises(StreamClosedError, match="malformed"):
        await channel.receive(Signed, max_payload=100)


@pytest.mark.parametrize("cut", [1, 8, 9, 12, 30])
async def test_the_end_in_mid_message_is_told(cut):
    body = Signed(body=b"hello").SerializeToString()
    frame = prefix(0, len(body), 40) + body + bytes(40)
    opened, accepted = streams()
    await opened.send_all(frame[:cut])
    await opened.aclose()
    channel = FramedChannel(accepted)
    with pytest.raises(StreamClosedError, match="ended in mid-message"):
        await channel.receive(Signed, max_payload=100)
    assert not channel.ended


async def test_a_payload_needs_permission():
    near, far = channels()
    await near.send(Signed(), b"surprise")
    with pytest.raises(ProtocolError, match="payload of 8 bytes, over the 0 allowed"):
        await far.receive(Signed)


async def test_a_payload_is_one_buffer_of_its_own():
    near, far = channels()
    await near.send(Signed(), [b"abc", memoryview(b"defg")[1:]])
    _, payload = await far.receive(Signed, max_payload=100)
    assert isinstance(payload.obj, bytearray)
    payload[0] = ord("A")
    assert bytes(payload) == b"Abcefg"


async def test_too_large_a_frame_is_refused_before_it_is_sent():
    near, far = channels(max_header=100)
    with pytest.raises(ProtocolError, match="header of"):
        await near.send(Signed(body=bytes(200)))
    await near.send(Signed(body=b"small"))
    header, _ = await far.receive(Signed)
    assert header.body == b"small"


@pytest.mark.parametrize("error", [NoRecordError("nothing here", hint="Look there."), PaymentRequiredError("pay")])
async def test_a_failure_raises_its_class_with_the_peer_named(error):
    near, far = channels()
    await near.send_failure(error)
    with pytest.raises(type(error), match=f"peer {ALICE}.*{error.message}") as caught:
        await far.receive(Signed)
    assert caught.value.hint == error.hint
    with pytest.raises(StreamClosedError, match="ended with a failure"):
        await far.receive(Signed)


async def test_a_failure_of_a_newer_peer_is_a_remote_error():
    near, far = channels()
    await near._send_frame(framing.FAILURE, Failure(code="out_of_cheese", message="+++").SerializeToString(), [])
    with pytest.raises(RemoteError, match="out_of_cheese"):
        await far.receive(Signed)


async def test_a_failure_cannot_steer_the_terminal_or_flood_it():
    near, far = channels()
    await near.send_failure(NoRecordError("\x1b[2J" + "x" * 100_000))
    with pytest.raises(NoRecordError) as caught:
        await far.receive(Signed)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 5000


async def test_several_senders_do_not_mix_their_frames(autojump_clock):
    near, far = channels()

    async def send(letter):
        for size in (10, framing.READ_SIZE + 1, 10):
            await near.send(Signed(body=letter), letter * size)

    async with trio.open_nursery() as nursery:
        for letter in (b"a", b"b", b"c"):
            nursery.start_soon(send, letter)
        for _ in range(9):
            header, payload = await far.receive(Signed, max_payload=MEGABYTE)
            assert set(bytes(payload)) == set(header.body)


async def test_a_send_cancelled_before_its_first_byte_sends_nothing(autojump_clock):
    near, far = channels()
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.send(Signed(body=b"never"))
    await near.send(Signed(body=b"next"))
    header, _ = await far.receive(Signed)
    assert header.body == b"next"


async def test_a_send_cancelled_while_another_sends_sends_nothing(autojump_clock):
    near, far = channels()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send, Signed(body=b"first"), bytes(2 * WINDOW))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await near.send(Signed(body=b"second"))
        header, _ = await far.receive(Signed, max_payload=MEGABYTE)
        assert header.body == b"first"
    await near.send(Signed(body=b"third"))
    assert (await far.receive(Signed))[0].body == b"third"


async def test_a_send_cancelled_in_its_middle_closes_the_stream(autojump_clock):
    near, far = channels()
    with trio.move_on_after(1) as scope:
        await near.send(Signed(body=b"half"), bytes(2 * WINDOW))
    assert scope.cancelled_caught
    with pytest.raises(StreamClosedError, match="cut off"):
        await near.send(Signed())
    with pytest.raises(StreamClosedError, match="ended in mid-message"):
        await far.receive(Signed, max_payload=MEGABYTE)


async def test_a_cancelled_receive_loses_no_header(autojump_clock):
    opened, accepted = streams()
    channel = FramedChannel(accepted)
    body = Signed(body=b"hello").SerializeToString()
    frame = prefix(0, len(body), 0) + body
    for piece in (frame[:4], frame[4:12], b""):
        await opened.send_all(piece)
        with trio.move_on_after(1) as scope:
            await channel.receive(Signed)
        assert scope.cancelled_caught
    await opened.send_all(frame[12:])
    assert (await channel.receive(Signed))[0].body == b"hello"


async def test_a_receive_cancelled_in_a_payload_says_so_later(autojump_clock):
    opened, accepted = streams()
    channel = FramedChannel(accepted)
    await opened.send_all(prefix(0, 0, 10) + b"half")
    with trio.move_on_after(1):
        await channel.receive(Signed, max_payload=10)
    with pytest.raises(StreamClosedError, match="cut off in the middle of a payload"):
        await channel.receive(Signed, max_payload=10)


async def test_two_receivers_at_once_are_a_bug():
    _, far = channels()
    with pytest.RaisesGroup(trio.BusyResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.receive, Signed)
            nursery.start_soon(far.receive, Signed)


async def test_a_vanished_reader_is_a_closed_stream():
    near, far = channels()
    await far.aclose()
    with pytest.raises(StreamClosedError, match=BOB):
        await near.send(Signed())
    with pytest.raises(StreamClosedError):
        await near.send_eof()
