import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.metainfo import LONGEST_PIECE
from hivemind_p2p.bt.wire import (
    LONGEST_ADDRESS,
    LONGEST_BLOCK,
    MOST_ADDRESSES,
    MOST_BLOCKS,
    MOST_HAVES,
    MOST_MEMBERS,
    Block,
    Cancel,
    Choking,
    Have,
    Hello,
    Holding,
    Interest,
    ManifestFollows,
    Members,
    Piece,
    Refusal,
    Request,
    decode,
    decode_holding,
    decode_record,
    encode,
    encode_holding,
    encode_record,
    ranges,
)
from hivemind_p2p.errors import ProtocolError, RecordError
from hivemind_p2p.proto import swarm_pb2 as pb
from hivemind_p2p.types import PeerInfo

numbers = st.integers(0, 2**32 - 1)
blocks = st.builds(Block, numbers, st.integers(0, 1000), st.integers(1, LONGEST_BLOCK))
addresses = st.lists(st.text(max_size=20), max_size=MOST_ADDRESSES).map(tuple)
messages = st.one_of(
    st.builds(Hello, st.binary(min_size=32, max_size=32), st.booleans()),
    st.just(ManifestFollows()),
    st.builds(Holding, st.booleans(), st.binary(max_size=9), addresses),
    st.builds(Interest, st.booleans(), st.booleans(), st.binary(max_size=9), st.booleans()),
    st.builds(Choking, st.booleans()),
    st.builds(Cancel, st.lists(blocks, max_size=5).map(tuple)),
    st.builds(Members, st.lists(st.builds(PeerInfo, st.text(min_size=1, max_size=9), addresses)).map(tuple)),
    st.builds(Have, st.lists(numbers).map(tuple)),
    st.builds(Request, st.lists(blocks, max_size=5).map(tuple)),
    st.builds(Piece, st.lists(blocks, max_size=5).map(tuple)),
    st.builds(Refusal, blocks),
)


@given(messages)
def test_decoding_undoes_encoding(message):
    assert decode(pb.Message.FromString(encode(message).SerializeToString())) == message


@given(st.binary(max_size=100))
def test_fuzz_what_is_malformed_raises_a_protocol_error(data):
    try:
        parsed = pb.Message.FromString(data)
    except DecodeError:
        return
    try:
        message = decode(parsed)
    except ProtocolError:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        pb.Message(),
        pb.Message(hello=pb.Hello(infohash=b"short")),
        pb.Message(have=pb.Have(pieces=[1] * (MOST_HAVES + 1))),
        pb.Message(request=pb.Request(blocks=[pb.Block(length=1)] * (MOST_BLOCKS + 1))),
        pb.Message(piece=pb.Piece(blocks=[pb.Block(length=1)] * (MOST_BLOCKS + 1))),
        pb.Message(piece=pb.Piece(blocks=[pb.Block(length=LONGEST_BLOCK + 1)])),
        pb.Message(piece=pb.Piece(blocks=[pb.Block(begin=LONGEST_PIECE, length=1)])),
        pb.Message(cancel=pb.Cancel(blocks=[pb.Block(length=1)] * (MOST_BLOCKS + 1))),
        pb.Message(holding=pb.Holding(addresses=["/a"] * (MOST_ADDRESSES + 1))),
        pb.Message(holding=pb.Holding(addresses=["/" * (LONGEST_ADDRESS + 1)])),
        pb.Message(members=pb.Members(members=[pb.Member(peer_id="a")] * (MOST_MEMBERS + 1))),
        pb.Message(members=pb.Members(members=[pb.Member()])),
        pb.Message(request=pb.Request(blocks=[pb.Block(begin=2**32 - 1, length=1)])),
    ],
)
def test_numbers_out_of_bounds_are_refused(message):
    with pytest.raises(ProtocolError):
        decode(message)


@given(st.sets(st.integers(0, 19)))
def test_what_a_peer_holds_travels(pieces):
    held = Bitfield(20, pieces)
    assert decode_holding(encode_holding(held), 20) == held


def test_a_bitfield_of_another_content_is_refused():
    with pytest.raises(ProtocolError):
        decode_holding(Holding(False, b"\xff\xff"), 7)


@given(st.integers(1, LONGEST_PIECE))
def test_a_piece_is_asked_for_in_blocks_that_cover_it(length):
    blocks = ranges(7, length)
    assert decode(encode(Piece(blocks))) == Piece(blocks)
    assert [block.begin for block in blocks] == [sum(b.length for b in blocks[:n]) for n in range(len(blocks))]
    assert sum(block.length for block in blocks) == length


@pytest.mark.parametrize("complete", [True, False])
def test_a_record_is_never_empty(complete):
    value = encode_record(complete=complete)
    assert value
    assert decode_record(value) is complete


def test_a_withdrawn_and_a_malformed_record():
    assert decode_record(b"") is None
    with pytest.raises(RecordError):
        decode_record(b"\xff\xff")
