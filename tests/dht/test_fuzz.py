"""Damaged messages of every kind, through everything that an answer takes: parsed, decided on, and put on the wire."""

import random

import pytest
from google.protobuf.message import DecodeError

from hivemind_p2p import defaults
from hivemind_p2p.dht import ids, kademlia_node, kademlia_wire, records, wire
from hivemind_p2p.dht.kademlia_node import KademliaNode
from hivemind_p2p.dht.kademlia_wire import Kind, Message, Value
from hivemind_p2p.dht.messages import FindPeers, FindRecords, ReadMany, Refusal, Request, Response, Store
from hivemind_p2p.dht.node import Node
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.dht.validators import Validators
from hivemind_p2p.errors import ProtocolError, RecordError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.framing import MAX_HEADER
from hivemind_p2p.proto import dht_pb2
from hivemind_p2p.proto import kademlia_pb2 as pb
from hivemind_p2p.record_validators import record_validators
from hivemind_p2p.types import PeerInfo

NOW = 1_700_000_000.0
ROUNDS = 1000
ME, ASKER = Identity(b"m" * 32), Identity(b"a" * 32)
CONTENT = f"content:{7:064x}"
SENDER = PeerInfo(ASKER.peer_id, ("/ip4/192.0.2.7/tcp/4001",))
SIGNED = [
    records.sign(ASKER, key, value, sequence=2, expires_at=NOW + 60)
    for key in ("greeting", defaults.OFFERS_KEY, defaults.MODELS_KEY, CONTENT)
    for value in (b"", b"\x0a\x02hi\x10\x07")
]
ON_WIRE = tuple(wire.as_bytes(signed) for signed in SIGNED)
POINT = ids.of_key("greeting")

QUESTIONS = {
    "find peers": FindPeers(POINT),
    "store": Store(ON_WIRE),
    "store and find": Store(ON_WIRE, POINT),
    "copy": Store(ON_WIRE, copy_seconds=30),
    "find records": FindRecords("greeting", ASKER.peer_id[:20], frozenset([SIGNED[0].mark, SIGNED[1].mark])),
    "read many": ReadMany(("greeting", CONTENT)),
}
MESSAGES = {
    "ping": Message(Kind.PING),
    "find node": Message(Kind.FIND_NODE, kademlia_wire.peer_bytes(ME.peer_id)),
    "get providers": Message(Kind.GET_PROVIDERS, b"\x12\x20" + bytes(32)),
    "add provider": Message(Kind.ADD_PROVIDER, b"\x12\x20" + bytes(32), providers=(SENDER,)),
    "get a record": Message(Kind.GET_VALUE, kademlia_node.record_key(ASKER.peer_id, "greeting")),
    "get a key": Message(Kind.GET_VALUE, b"/pk/" + kademlia_wire.peer_bytes(ASKER.peer_id)),
    "put a record": Message(
        Kind.PUT_VALUE,
        kademlia_node.record_key(ASKER.peer_id, "greeting"),
        Value(kademlia_node.record_key(ASKER.peer_id, "greeting"), kademlia_node.pack(SIGNED[1])),
    ),
}


def damaged(chance, data):
    """A few bytes changed, cut out, or put in twice."""
    data = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                data[at : at + 1] = bytes([(data + b"\x00")[at] ^ 1 << chance.randrange(8)])
            case 2:
                del data[at : at + chance.randrange(1, 9)]
            case 3:
                data[at:at] = data[at : at + chance.randrange(1, 40)]
    return bytes(data)


def make_node():
    node = Node(ME.peer_id, store=RecordStore(validators=Validators(record_validators())))
    for number in range(1, 30):
        node.table.seen(PeerInfo(Identity(bytes([number]) * 32).peer_id, (f"/ip4/10.0.0.1/tcp/{number}",)), 0.0)
    node.store.put(SIGNED[1].body, SIGNED[1].signature, NOW)
    return node


@pytest.mark.parametrize("kind", QUESTIONS)
def test_damaged_requests_are_answered_or_refused(kind):
    chance, node, answered = random.Random(kind), make_node(), 0
    whole = wire.encode_request(Request(SENDER, QUESTIONS[kind])).SerializeToString()
    for _ in range(ROUNDS):
        try:
            request = wire.decode_request(dht_pb2.Request.FromString(damaged(chance, whole)), ASKER.peer_id)
        except (DecodeError, ProtocolError):
            continue
        response, _ = node.answer(request, now=NOW, at=0.0)
        assert len(wire.encode_response(response).SerializeToString()) < MAX_HEADER
        answered += 1
    assert ROUNDS > answered > 0


def test_damaged_responses_are_read_or_refused():
    chance, node, read = random.Random(1), make_node(), 0
    response = Response(node.table.peers()[:20], ON_WIRE, "next", (Refusal(1, "no room"),), 9)
    whole = wire.encode_response(response).SerializeToString()
    for _ in range(ROUNDS):
        try:
            message = dht_pb2.Response.FromString(damaged(chance, whole))
            response = wire.decode_response(message, ASKER.peer_id)
        except (DecodeError, ProtocolError):
            continue
        node.merge(node.new_merge("greeting", NOW), "greeting", response.records, NOW)
        node.worth_asking(response.peers, 0.0)
        read += 1
    assert ROUNDS > read > 0


@pytest.mark.parametrize("kind", MESSAGES)
def test_damaged_standard_messages_are_answered_or_refused(kind):
    chance, standard, answered = random.Random(kind), KademliaNode(make_node()), 0
    whole = kademlia_wire.encode(MESSAGES[kind])
    own = PeerInfo(ME.peer_id, ("/ip4/10.0.0.1/tcp/4001",))
    for _ in range(ROUNDS):
        try:
            message = kademlia_wire.decode(damaged(chance, whole), ASKER.peer_id)
            answer = standard.answer(message, ASKER.peer_id, own, now=NOW)
        except (ProtocolError, RecordError):
            continue
        assert len(kademlia_wire.encode(answer)) <= kademlia_wire.MAX_MESSAGE
        answered += 1
    assert ROUNDS >= answered > 0


def test_damaged_identify_messages_are_read_or_refused():
    chance = random.Random(2)
    address = kademlia_wire.binary_addresses.to_bytes("/ip4/192.0.2.7/tcp/4001")
    whole = pb.Identify(listenAddrs=[address, address], protocols=["/hivemind/kad/1.0.0"]).SerializeToString()
    for _ in range(ROUNDS):
        try:
            info, _ = kademlia_wire.decode_identify(damaged(chance, whole), ASKER.peer_id)
        except ProtocolError:
            continue
        kademlia_wire.encode(Message(Kind.FIND_NODE, closer=(info,)))


def test_no_value_breaks_a_name_space():
    """Signed by its signer, and nonsense all the same."""
    chance, store = random.Random(3), RecordStore(validators=Validators(record_validators()), most_of_signer=9)
    for number in range(ROUNDS):
        signed = chance.choice(SIGNED)
        value = damaged(chance, signed.record.value + chance.randbytes(chance.randrange(20)))
        nonsense = records.sign(ASKER, signed.record.key, value, sequence=number + 3, expires_at=NOW + 60)
        try:
            store.put(nonsense.body, nonsense.signature, NOW)
        except RecordError:
            continue
