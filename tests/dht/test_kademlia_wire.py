import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb import kademlia_pb2 as stock

from hivemind_p2p.dht import kademlia_wire
from hivemind_p2p.dht.kademlia_wire import Kind, Message, MessageReader, Value, framed
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import binary_addresses
from hivemind_p2p.proto import kademlia_pb2 as pb
from hivemind_p2p.types import PeerInfo

PEERS = [Identity(bytes([number]) * 32).peer_id for number in range(1, 6)]
REMOTE = PEERS[0]
ADDRESS = "/ip4/192.0.2.7/tcp/4001"

infos = st.lists(
    st.builds(PeerInfo, st.sampled_from(PEERS), st.just((ADDRESS, "/dns4/x.example/tcp/1"))),
    max_size=5,
    unique_by=lambda info: info.peer_id,
).map(tuple)
messages = st.builds(
    Message,
    st.sampled_from(list(Kind)),
    st.binary(max_size=80),
    st.none() | st.builds(Value, st.binary(max_size=80), st.binary(max_size=300), st.text(max_size=40)),
    infos,
    infos,
)


@given(messages)
def test_messages_come_out_as_they_went_in(message):
    assert kademlia_wire.decode(kademlia_wire.encode(message), REMOTE) == message


@given(messages)
def test_the_reference_library_reads_them_alike(message):
    theirs = stock.Message.FromString(kademlia_wire.encode(message))
    assert (theirs.type, theirs.key) == (message.kind, message.key)
    assert [peer.id for peer in theirs.closerPeers] == [kademlia_wire.peer_bytes(p.peer_id) for p in message.closer]
    assert kademlia_wire.decode(theirs.SerializeToString(), REMOTE) == message


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
def test_messages_are_cut_out_of_a_stream_however_it_arrives(bodies, data):
    stream = b"".join(map(framed, bodies))
    reader, found = MessageReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        while (message := reader.next()) is not None:
            found.append(message)
    assert found == bodies
    assert not reader.in_the_middle


@pytest.mark.parametrize("stream", [b"\xff" * 5, binary_addresses.write_varint(kademlia_wire.MAX_MESSAGE + 1)])
def test_absurd_lengths_are_refused_before_anything_is_read(stream):
    reader = MessageReader()
    reader.feed(stream)
    with pytest.raises(ProtocolError):
        reader.next()


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parsers(data):
    for parse in (kademlia_wire.decode, kademlia_wire.decode_identify):
        try:
            parse(data, REMOTE)
        except ProtocolError:
            continue


@given(messages, st.data())
def test_no_damage_to_a_message_breaks_the_parser(message, data):
    encoded = bytearray(kademlia_wire.encode(message) or b"\x00")
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        kademlia_wire.decode(bytes(encoded), REMOTE)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "message",
    [
        pb.Message(key=bytes(kademlia_wire.MAX_KEY + 1)),
        pb.Message(record=pb.StandardRecord(key=bytes(kademlia_wire.MAX_KEY + 1))),
        pb.Message(record=pb.StandardRecord(value=bytes(kademlia_wire.MAX_MESSAGE))),
    ],
)
def test_messages_are_bounded(message):
    with pytest.raises(ProtocolError):
        kademlia_wire.decode(message.SerializeToString(), REMOTE)


def test_a_message_of_an_unknown_type_is_refused():
    with pytest.raises(ProtocolError, match="malformed"):
        kademlia_wire.decode(b"\x08\x63", REMOTE)


def test_what_this_version_does_not_know_is_left_out():
    known = pb.Message.Peer(
        id=kademlia_wire.peer_bytes(PEERS[1]), addrs=[b"\xde\xad", binary_addresses.to_bytes(ADDRESS)]
    )
    rsa = pb.Message.Peer(id=b"\x12\x20" + bytes(32), addrs=[binary_addresses.to_bytes(ADDRESS)])
    message = pb.Message(type=pb.Message.FIND_NODE, closerPeers=[rsa, known, *[known] * 99])
    assert kademlia_wire.decode(message.SerializeToString(), REMOTE).closer == (PeerInfo(PEERS[1], (ADDRESS,)),)


def test_addresses_that_end_with_their_peer_are_understood():
    address = binary_addresses.to_bytes(f"{ADDRESS}/p2p/{PEERS[1]}")
    data = pb.Identify(listenAddrs=[address], protocols=["/x/1"]).SerializeToString()
    assert kademlia_wire.decode_identify(data, PEERS[1]) == (PeerInfo(PEERS[1], (ADDRESS,)), ("/x/1",))
