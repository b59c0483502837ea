import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.dht import ids, records, wire
from hivemind_p2p.dht.messages import FindPeers, FindRecords, Refusal, Request, Response, SignedBytes, Store
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.identity import Identity
from hivemind_p2p.proto import common_pb2, dht_pb2
from hivemind_p2p.types import PeerId, PeerInfo

PEERS = [Identity(bytes([number]) * 32).peer_id for number in range(1, 6)]
REMOTE = PEERS[0]

infos = st.builds(
    PeerInfo,
    st.sampled_from(PEERS),
    st.lists(st.text(max_size=wire.LONGEST_ADDRESS), max_size=wire.MOST_ADDRESSES).map(tuple),
)
signed = st.builds(SignedBytes, st.binary(max_size=500), st.binary(max_size=64))
questions = st.one_of(
    st.builds(FindPeers, st.integers(0, 2**256 - 1).map(ids.NodeId)),
    st.builds(Store, st.lists(signed, max_size=5).map(tuple)),
    st.builds(FindRecords, st.text(max_size=60), st.text(max_size=60)),
)
responses = st.builds(
    Response,
    st.lists(infos, max_size=wire.MOST_PEERS).map(tuple),
    st.lists(signed, max_size=5).map(tuple),
    st.text(max_size=60),
    st.lists(st.builds(Refusal, st.integers(0, 2**32 - 1), st.text(max_size=99)), max_size=5).map(tuple),
)


@given(infos, questions)
def test_requests_come_out_as_they_went_in(sender, question):
    request = Request(sender, question)
    message = dht_pb2.Request.FromString(wire.encode_request(request).SerializeToString())
    assert wire.decode_request(message, sender.peer_id) == request


@given(responses)
def test_responses_come_out_as_they_went_in(response):
    message = dht_pb2.Response.FromString(wire.encode_response(response).SerializeToString())
    assert wire.decode_response(message, REMOTE) == response


def test_a_sender_must_be_who_is_at_the_other_end():
    message = wire.encode_request(Request(PeerInfo(PEERS[1]), FindRecords("key")))
    with pytest.raises(ProtocolError, match="calls itself"):
        wire.decode_request(message, REMOTE)


def response(**fields):
    return dht_pb2.Response(**fields)


def peer(**fields):
    return dht_pb2.Peer(**{"peer_id": REMOTE} | fields).SerializeToString()


TOO_MUCH = {
    "peers": response(peers=[peer()] * (wire.MOST_PEERS + 1)),
    "addresses": response(peers=[peer(addresses=["a"] * (wire.MOST_ADDRESSES + 1))]),
    "characters": response(peers=[peer(addresses=["a" * (wire.LONGEST_ADDRESS + 1)])]),
    "no peer id": response(peers=[peer(peer_id="QmNotEd25519")]),
    "no peer": response(peers=[b"\xff"]),
    "records": response(records=[common_pb2.Signed()] * (wire.MOST_RECORDS + 1)),
    "bytes of a record": response(records=[common_pb2.Signed(body=bytes(records.MAX_BODY + 1))]),
    "bytes of a signature": response(records=[common_pb2.Signed(signature=bytes(65))]),
    "refusals": response(refusals=[dht_pb2.Refusal()] * (wire.MOST_RECORDS + 1)),
    "cursor": response(next="a" * 999),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_responses_are_bounded(what):
    with pytest.raises(ProtocolError, match=what):
        wire.decode_response(TOO_MUCH[what], REMOTE)


@pytest.mark.parametrize(
    "message",
    [
        dht_pb2.Request(),
        dht_pb2.Request(find_peers=dht_pb2.FindPeers(target=bytes(31))),
        dht_pb2.Request(find_peers=dht_pb2.FindPeers(target=bytes(33))),
        dht_pb2.Request(find_records=dht_pb2.FindRecords(key="\N{SNOWMAN}" * 100)),
        dht_pb2.Request(find_records=dht_pb2.FindRecords(key="key", after="a" * 999)),
        dht_pb2.Request(store=dht_pb2.Store(records=[common_pb2.Signed()] * (wire.MOST_RECORDS + 1))),
    ],
)
def test_requests_are_bounded(message):
    message.sender = peer()
    with pytest.raises(ProtocolError):
        wire.decode_request(message, REMOTE)


def test_a_peer_that_is_named_again_is_not_parsed_again():
    told = response(peers=[peer(addresses=["/ip4/192.0.2.1/tcp/1"])]).SerializeToString()
    first, second = (wire.decode_response(dht_pb2.Response.FromString(told), REMOTE).peers for _ in range(2))
    assert first[0] is second[0]


def test_a_peer_of_unusual_size_is_not_remembered():
    told = response(peers=[peer(addresses=["a" * wire.LONGEST_ADDRESS] * 5)]).SerializeToString()
    first, second = (wire.decode_response(dht_pb2.Response.FromString(told), REMOTE).peers for _ in range(2))
    assert first == second
    assert first[0] is not second[0]


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parsers(data):
    for kind, decode in ((dht_pb2.Request, wire.decode_request), (dht_pb2.Response, wire.decode_response)):
        try:
            decode(kind.FromString(data), REMOTE)
        except (DecodeError, ProtocolError):
            continue


@given(responses, st.data())
def test_no_damage_to_a_message_breaks_the_parsers(response, data):
    encoded = bytearray(wire.encode_response(response).SerializeToString() or b"\x00")
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        wire.decode_response(dht_pb2.Response.FromString(bytes(encoded)), REMOTE)
    except (DecodeError, ProtocolError):
        return


def test_batches_fit_into_messages_and_lose_nothing():
    me = Identity(bytes(32))
    large = [records.sign(me, f"large {n}", bytes(16_000), sequence=1, expires_at=1) for n in range(40)]
    small = [records.sign(me, f"small {n}", b"v", sequence=1, expires_at=1) for n in range(wire.MOST_RECORDS + 1)]
    batches = list(wire.batches([*large, *small]))
    assert [record for batch in batches for record in batch] == [*large, *small]
    assert all(sum(record.size for record in batch) <= wire.MAX_BATCH for batch in batches)
    assert all(len(batch) <= wire.MOST_RECORDS for batch in batches)
    assert len(batches) == 4
    assert list(wire.batches([])) == []


def test_only_so_many_addresses_are_told():
    addresses = ("a" * 999, *(f"/memory/{number}" for number in range(50)))
    assert wire.bounded(PeerInfo(PeerId("p"), addresses)).addresses == addresses[1 : wire.MOST_ADDRESSES + 1]


def test_what_is_far_too_long_for_a_peer_id_is_not_remembered():
    before = wire._is_peer_id.cache_info().currsize
    assert not any(wire.is_peer_id("1" * (wire.LONGEST_PEER_ID + length)) for length in range(1, 100))
    assert wire._is_peer_id.cache_info().currsize == before
