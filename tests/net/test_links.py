"""Messages of libp2p's own protocols, as they are read from a stream that a stranger writes to."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import DeadlineExceededError, NetworkError, ProtocolError, StreamClosedError
from hivemind_p2p.net import links
from hivemind_p2p.net.autonat import DialBackQuota, at_host
from hivemind_p2p.net.binary_addresses import to_bytes, write_varint
from hivemind_p2p.net.calls import LARGEST_MESSAGE, Call, Link
from hivemind_p2p.net.hole_punch import usable
from hivemind_p2p.proto import reachability_pb2 as wire


class Muxed:
    is_closed = False

    class peer_id:  # noqa: N801 - libp2p's name
        @staticmethod
        def to_base58():
            return "12D3KooWStranger"

    @staticmethod
    def get_remote_address():
        return ("9.9.9.9", 1)


class Host:
    @staticmethod
    def get_network():
        return None


class Connection:
    def __init__(self):
        self.muxed_conn = Muxed()


class Stream:
    """Bytes that come in pieces of a given size, then the end."""

    muxed_conn = Muxed()

    def __init__(self, data, piece=1 << 20):
        self.left, self.piece = data, piece
        self.asked = 0

    async def read(self, most):
        self.asked += most
        size = min(most, self.piece)
        data, self.left = self.left[:size], self.left[size:]
        return data

    async def write(self, data):
        self.left += data


@pytest.mark.parametrize("piece", [1, 3, 1000])
async def test_a_message_is_read_and_nothing_behind_it(piece):
    stream = Stream(b"")
    call = Call(stream)
    sent = wire.HopMessage(type=wire.HopMessage.CONNECT, peer=wire.RelayPeer(id=b"x" * 200))
    await call.send(sent)
    stream.left += b"behind"
    stream.piece = piece
    assert await call.receive(wire.HopMessage) == sent
    assert stream.left == b"behind"


async def test_a_length_beyond_the_limit_is_refused_before_it_is_read():
    stream = Stream(write_varint(LARGEST_MESSAGE + 1) + bytes(LARGEST_MESSAGE + 1))
    with pytest.raises(ProtocolError, match="more than"):
        await Call(stream).receive(wire.HopMessage)
    assert stream.asked < 10


async def test_an_endless_length_is_refused():
    with pytest.raises(ProtocolError):
        await Call(Stream(b"\x80" * 100)).receive(wire.HopMessage)


async def test_an_end_in_the_middle_is_told():
    with pytest.raises(StreamClosedError):
        await Call(Stream(b"\x05ab")).receive(wire.HopMessage)


async def test_a_stranger_that_says_nothing_is_not_waited_for(autojump_clock):
    class Silent(Stream):
        async def read(self, most):
            await trio.sleep_forever()

    with pytest.raises(DeadlineExceededError):
        await Call(Silent(b"")).receive(wire.HopMessage, deadline=5)


_kinds = st.sampled_from([wire.HopMessage, wire.StopMessage, wire.HolePunch, wire.AutoNat, wire.Identify])


@given(st.binary(max_size=300), st.integers(1, 64), _kinds)
def test_whatever_comes_is_a_message_or_an_error(data, piece, kind):
    async def receive():
        try:
            await Call(Stream(data, piece)).receive(kind)
        except NetworkError:
            return

    trio.run(receive)


async def test_a_witness_known_by_a_name_is_called_from_the_listening_port_too(monkeypatch):
    tried = []

    async def found(address):
        return ("/ip4/9.9.9.1/tcp/7", "/ip4/9.9.9.2/tcp/7")

    async def dial(swarm, peer, address, source=None):
        tried.append((address, source))
        if address == "/ip4/9.9.9.1/tcp/7":
            raise NetworkError("no answer")
        return Connection()

    monkeypatch.setattr(links, "resolved", found)
    monkeypatch.setattr(links.libp2p_host, "dial", dial)
    ours = links.Links(Host(), ["/ip4/0.0.0.0/tcp/4001"])
    ours.reuse_port_to.add("witness")
    connection = await ours.dial("witness", "/dns4/hive.example/tcp/7")
    assert tried == [(address, ("0.0.0.0", 4001)) for address in await found("")]
    assert ours.dialled_from(Link(connection)) == 4001


def test_calling_back_is_bounded_for_all_and_for_each_host():
    quota = DialBackQuota(most=3, most_a_host=2)
    assert [quota.admit("a", 0), quota.admit("a", 1), quota.admit("a", 2)] == [True, True, False]
    assert [quota.admit("b", 3), quota.admit("c", 4)] == [True, False]
    assert quota.admit("a", 61)


def test_only_the_host_that_asks_is_called_back():
    asked = [
        "/ip4/9.9.9.9/tcp/7",
        "/ip4/9.9.9.8/tcp/7",
        "/ip4/9.9.9.9/tcp/0",
        "/dns4/x.example/tcp/7",
        "/ip6/::1/tcp/7",
    ]
    raw = [b"nonsense", *map(to_bytes, asked)]
    assert at_host(raw, "9.9.9.9") == at_host(raw, "::ffff:9.9.9.9") == ["/ip4/9.9.9.9/tcp/7"]
    assert at_host(raw, "fe80::1%eth0") == []


def test_nobody_makes_this_peer_scan_its_own_network():
    named = ["/ip4/9.9.9.9/tcp/7", "/ip4/192.168.1.1/tcp/80", "/ip4/127.0.0.1/tcp/22", "/ip4/169.254.169.254/tcp/80"]
    raw = [*map(to_bytes, named)]
    assert usable(raw, private=False) == ["/ip4/9.9.9.9/tcp/7"]
    assert usable(raw, private=True) == ["/ip4/9.9.9.9/tcp/7", "/ip4/192.168.1.1/tcp/80"]
    assert usable([b"nonsense"] * 100, private=True) == []
