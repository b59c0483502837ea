"""libp2p's standard Kademlia messages between peers, and from strangers that try things."""

import pytest
import trio

from hivemind_p2p.dht import kademlia_node, kademlia_service, kademlia_wire, records, wire
from hivemind_p2p.dht.kademlia_service import IDENTIFY, PROTOCOL
from hivemind_p2p.dht.kademlia_wire import Kind, Message, MessageReader, Value, framed
from hivemind_p2p.errors import RecordError
from hivemind_p2p.net.router import Router
from hivemind_p2p.proto import kademlia_pb2 as pb
from hivemind_p2p.types import PeerInfo

KEY = b"\x12\x20" + bytes(32)


class Stranger:
    """A host of another implementation: it speaks the standard's messages only."""

    def __init__(self, hive, identity, protocols=(PROTOCOL,)):
        self.identity = identity
        self.router = Router(hive.network.join(identity), hive.nursery)
        self.info = PeerInfo(identity.peer_id, self.router.addresses)
        self._protocols = protocols
        self.router.serve_stream(IDENTIFY, self._identify)

    async def _identify(self, stream):
        message = pb.Identify(
            listenAddrs=[kademlia_wire.binary_addresses.to_bytes(address) for address in self.info.addresses],
            protocols=self._protocols,
        )
        await stream.send_all(framed(message.SerializeToString()))

    async def ask(self, member, *messages):
        """The answers; fewer than questions where the stream was ended."""
        self.router.learn(member.info)
        stream = await self.router.open_stream(member.peer_id, PROTOCOL)
        reader, answers = MessageReader(), []
        for message in messages:
            data = message if isinstance(message, bytes) else framed(kademlia_wire.encode(message))
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                return answers
            while (answer := reader.next()) is None:
                if not (received := await stream.receive_some()):
                    return answers
                reader.feed(received)
            answers.append(kademlia_wire.decode(answer, member.peer_id))
        await stream.aclose()
        return answers


@pytest.fixture
async def members(hive):
    return await hive.grow(4)


@pytest.fixture
def stranger(hive, identity, members):
    return Stranger(hive, identity(66))


async def test_several_questions_on_one_stream(autojump_clock, members, stranger):
    ping, found = await stranger.ask(
        members[0], Message(Kind.PING), Message(Kind.FIND_NODE, kademlia_wire.peer_bytes(members[2].peer_id))
    )
    assert ping == Message(Kind.PING)
    assert found.closer[0] == members[2].info
    assert {info.peer_id for info in found.closer} == {member.peer_id for member in members[1:]}


async def test_a_peer_names_itself_where_it_is_looked_for(autojump_clock, members, stranger):
    (found,) = await stranger.ask(members[0], Message(Kind.FIND_NODE, kademlia_wire.peer_bytes(members[0].peer_id)))
    assert found.closer[0] == members[0].info


async def test_a_stranger_that_asked_is_named_to_others(autojump_clock, members, stranger, hive, identity):
    await stranger.ask(members[0], Message(Kind.PING))
    await trio.sleep(1)
    other = Stranger(hive, identity(67))
    (found,) = await other.ask(members[0], Message(Kind.FIND_NODE, kademlia_wire.peer_bytes(stranger.info.peer_id)))
    assert found.closer[0] == stranger.info
    # And never asked in our own protocol.
    assert stranger.info.peer_id not in members[0].service._node.table


async def test_a_stranger_that_speaks_no_kademlia_is_not_named(autojump_clock, members, hive, identity):
    client = Stranger(hive, identity(66), protocols=("/ipfs/ping/1.0.0",))
    await client.ask(members[0], Message(Kind.PING))
    await trio.sleep(1)
    (found,) = await client.ask(members[0], Message(Kind.FIND_NODE, kademlia_wire.peer_bytes(client.info.peer_id)))
    assert client.info not in found.closer
    other = Stranger(hive, identity(67))
    (found,) = await other.ask(members[0], Message(Kind.FIND_NODE, kademlia_wire.peer_bytes(client.info.peer_id)))
    assert client.info not in found.closer


async def test_providers_are_found_by_everybody(autojump_clock, members, stranger):
    assert await members[1].service.standard.provide(KEY) == 3
    await stranger.ask(members[0], Message(Kind.ADD_PROVIDER, KEY, providers=(stranger.info,)))
    (answer,) = await stranger.ask(members[2], Message(Kind.GET_PROVIDERS, KEY))
    assert answer.providers == (members[1].info,)
    found = await members[3].service.standard.find_providers(KEY)
    assert {info.peer_id for info in found} == {members[1].peer_id, stranger.info.peer_id}


async def test_nobody_names_others_as_providers(autojump_clock, members, stranger):
    forged = Message(Kind.ADD_PROVIDER, KEY, providers=(members[1].info,))
    assert await stranger.ask(members[0], forged) == []
    assert members[0].service.standard.refused == 1
    assert await members[2].service.standard.find_providers(KEY) == ()


async def test_our_records_are_values_and_values_are_our_records(autojump_clock, members, stranger, identity):
    await members[1].service.publish("key", b"mine", lifetime=600)
    key = kademlia_node.record_key(members[1].peer_id, "key")
    (answer,) = await stranger.ask(members[0], Message(Kind.GET_VALUE, key))
    packed = kademlia_node.unpack(answer.value.value)
    assert records.read_body(packed.body).value == b"mine"
    now = trio.current_time()
    signed = records.sign(identity(66), "key", b"stranger's", sequence=1, expires_at=now + 60)
    own_key = kademlia_node.record_key(identity(66).peer_id, "key")
    value = Value(own_key, kademlia_node.pack(signed))
    assert [answer.kind for answer in await stranger.ask(members[0], Message(Kind.PUT_VALUE, own_key, value))] == [
        1 - 1
    ]
    assert {record.value for record in await members[2].service.lookup("key")} == {b"mine", b"stranger's"}
    assert await members[3].service.standard.get_value(own_key) == value.value
    assert await members[3].service.standard.put_value(own_key, value.value) == 3


async def test_the_public_key_of_a_peer_is_known_from_its_id(autojump_clock, members, stranger, identity):
    from libp2p.peer.id import ID
    from libp2p.records.pubkey import unmarshal_public_key

    raw = kademlia_wire.peer_bytes(identity(9).peer_id)
    (answer,) = await stranger.ask(members[0], Message(Kind.GET_VALUE, b"/pk/" + raw))
    assert ID.from_pubkey(unmarshal_public_key(answer.value.value)).to_bytes() == raw
    stored = await stranger.ask(
        members[0], Message(Kind.PUT_VALUE, b"/pk/" + raw, Value(b"/pk/" + raw, answer.value.value))
    )
    assert len(stored) == 1


def values_to_refuse(identity, now):
    mine = records.sign(identity(66), "key", b"v", sequence=1, expires_at=now + 60)
    key = kademlia_node.record_key(identity(66).peer_id, "key")
    other = kademlia_node.record_key(identity(65).peer_id, "key")
    forged = kademlia_node.common_pb2.Signed(body=mine.body, signature=bytes(64)).SerializeToString()
    peer = b"/pk/" + kademlia_wire.peer_bytes(identity(9).peer_id)
    return [
        (key, None),
        (key, Value(other, kademlia_node.pack(mine))),
        (other, Value(other, kademlia_node.pack(mine))),
        (key + b"2", Value(key + b"2", kademlia_node.pack(mine))),
        (key, Value(key, forged)),
        (key, Value(key, b"\xff")),
        (b"/hivemind/", Value(b"/hivemind/", b"")),
        (b"/hivemind/\xff/k", Value(b"/hivemind/\xff/k", b"")),
        (b"/ipns/x", Value(b"/ipns/x", b"anything")),
        (b"plain", Value(b"plain", b"anything")),
        (peer, Value(peer, b"another key")),
        (b"/pk/none", Value(b"/pk/none", b"")),
    ]


async def test_values_that_cannot_be_checked_are_refused(autojump_clock, members, stranger, identity):
    for key, value in values_to_refuse(identity, trio.current_time()):
        assert await stranger.ask(members[0], Message(Kind.PUT_VALUE, key, value)) == [], key
        with pytest.raises(RecordError):
            members[0].service.standard._kademlia.put(key, value, trio.current_time())
    assert await members[1].service.lookup("key") == ()
    assert members[0].service.statistics().records == 0


@pytest.mark.parametrize("garbage", [b"\xff" * 9, b"\x02\x08\x63", b"\x05hello", b"\x00" * 3, b"\x85\x80\x80\x01"])
async def test_garbage_ends_the_stream_and_nothing_else(autojump_clock, members, stranger, garbage):
    for _ in range(10):
        await stranger.ask(members[0], garbage)
    (answer,) = await stranger.ask(members[0], Message(Kind.PING))
    assert answer.kind is Kind.PING


async def test_one_stranger_cannot_take_all_streams(autojump_clock, members, stranger):
    stranger.router.learn(members[0].info)
    held = [
        await stranger.router.open_stream(members[0].peer_id, PROTOCOL)
        for _ in range(kademlia_service.MOST_STREAMS_OF_PEER)
    ]
    await trio.sleep(1)
    assert await stranger.ask(members[0], Message(Kind.PING)) == []
    await trio.sleep(kademlia_service.IDLE)
    assert len(await stranger.ask(members[0], Message(Kind.PING))) == 1
    for stream in held:
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_a_stranger_that_vanished_is_left_out_of_lookups(autojump_clock, members, stranger, hive):
    await stranger.ask(members[0], Message(Kind.PING))
    await trio.sleep(1)
    standard = members[0].service.standard
    assert standard._kademlia.knows(stranger.info.peer_id)
    hive.network.kill(stranger.info.peer_id)
    await standard.find_peers(b"anything")
    await trio.sleep(10)
    assert not standard._kademlia.knows(stranger.info.peer_id)


async def test_lookups_in_the_standards_words(autojump_clock, members):
    found = await members[1].service.standard.find_peers(kademlia_wire.peer_bytes(members[3].peer_id))
    assert found[0] == members[3].info
    await members[1].service.standard.ping(members[2].info)
    assert members[2].service.statistics().standard_answered >= 1
    assert len(found) <= wire.MOST_PEERS


async def test_what_is_provided_is_renewed(autojump_clock, hive):
    seed, provider = hive.add(1), hive.add(2)
    await provider.service.standard.provide(KEY)
    for _ in range(3):
        await trio.sleep(23 * 3600)
        await provider.service.standard.sweep()
        await seed.service.standard.sweep()
    assert [info.peer_id for info in await seed.service.standard.find_providers(KEY)] == [provider.peer_id]
    await trio.sleep(48 * 3600)
    await seed.service.standard.sweep()
    assert not len(seed.service.standard._kademlia.providers)


async def test_a_stranger_that_is_silent_is_asked_before_it_is_named_for_ever(autojump_clock, members, stranger, hive):
    await stranger.ask(members[0], Message(Kind.PING))
    await trio.sleep(1)
    standard = members[0].service.standard
    hive.network.kill(stranger.info.peer_id)
    await trio.sleep(kademlia_service.PING_AFTER / 2)
    assert standard._kademlia.knows(stranger.info.peer_id)
    await trio.sleep(kademlia_service.PING_AFTER)
    assert not standard._kademlia.knows(stranger.info.peer_id)


async def test_a_flood_of_providers_keeps_nobody_from_providing(autojump_clock, hive, monkeypatch):
    seed, provider = await hive.grow(2)
    providers = provider.service.standard._kademlia.providers
    monkeypatch.setattr(providers, "_most", 0)
    await provider.service.standard.provide(KEY)
    assert [info.peer_id for info in await seed.service.standard.find_providers(KEY)] == [provider.peer_id]


async def test_what_cannot_be_renewed_ends_no_service(autojump_clock, hive, monkeypatch):
    _, provider = hive.add(1), hive.add(2)
    await provider.service.standard.provide(KEY)
    monkeypatch.setattr(type(provider.router), "addresses", ())
    await trio.sleep(23 * 3600)
    await provider.service.standard.sweep()
    assert provider.service.standard._provided
