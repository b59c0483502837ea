"""What the documents give other implementations to test against is what this one says."""

import re
from pathlib import Path

from hivemind_p2p.dht import ids, kademlia_wire, records, wire
from hivemind_p2p.dht.kademlia_wire import Kind, Message
from hivemind_p2p.dht.messages import FindRecords, Request
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import binary_addresses
from hivemind_p2p.types import PeerInfo

PROTOCOLS = Path(__file__).resolve().parents[2] / "docs" / "en" / "protocols"
ME = Identity(bytes(range(32)))
ADDRESS = "/ip4/192.0.2.7/tcp/4001"


def digits(name):
    """A page without white space: long rows of digits are broken."""
    return re.sub(r"\s", "", (PROTOCOLS / name).read_text())


def test_the_records_in_the_documents():
    page = digits("records.md")
    record = records.sign(ME, "greeting", b"hello", sequence=1, expires_at=1_700_000_000.0)
    for vector in (
        ME.public_key,
        ids.to_bytes(ids.of_peer(ME.peer_id)),
        ids.to_bytes(ids.of_key("offers")),
        record.body,
        record.signature,
    ):
        assert vector.hex() in page
    assert ME.peer_id in page


def test_the_messages_in_the_documents():
    page = digits("dht.md")
    find = kademlia_wire.encode(Message(Kind.FIND_NODE, kademlia_wire.peer_bytes(ME.peer_id)))
    request = Request(PeerInfo(ME.peer_id, (ADDRESS,)), FindRecords("greeting"))
    for vector in (
        kademlia_wire.framed(kademlia_wire.encode(Message(Kind.PING))),
        kademlia_wire.framed(find),
        binary_addresses.to_bytes(ADDRESS),
        wire.encode_request(request).SerializeToString(),
    ):
        assert vector.hex() in page
