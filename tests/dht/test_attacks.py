"""Peers that lie, stall and flood: what they send reaches nobody, and costs the others little."""

from dataclasses import replace

import pytest
import trio

from hivemind_p2p.dht import ids, records, service, wire
from hivemind_p2p.dht.channels import PROTOCOL, REQUEST_DEADLINE
from hivemind_p2p.dht.messages import FindPeers, FindRecords, Request, Response, SignedBytes, Store
from hivemind_p2p.errors import BusyError, ProtocolError, StreamClosedError
from hivemind_p2p.net.router import Router
from hivemind_p2p.proto import common_pb2, dht_pb2
from hivemind_p2p.types import PeerInfo


class Attacker:
    """A peer of the memory network that answers requests as a test wants it to."""

    def __init__(self, hive, identity, answer=None):
        self.identity = identity
        self.router = Router(hive.network.join(identity), hive.nursery)
        self.info = PeerInfo(identity.peer_id, self.router.addresses)
        self.asked = []
        self._answer = answer
        self.router.serve(PROTOCOL, self._serve)

    async def _serve(self, channel):
        while True:
            message, _ = await channel.receive(dht_pb2.Request)
            self.asked.append(message)
            await channel.send(await self._answer(wire.decode_request(message, channel.remote)))

    async def ask(self, victim, question, sender=None):
        self.router.learn(victim.info)
        channel = await self.router.open(victim.peer_id, PROTOCOL)
        await channel.send(wire.encode_request(Request(sender or self.info, question)))
        response, _ = await channel.receive(dht_pb2.Response)
        await channel.aclose()
        return wire.decode_response(response, victim.peer_id)


@pytest.fixture
async def victims(hive):
    members = await hive.grow(3)
    await members[1].service.publish("key", b"true", lifetime=600)
    return members


async def make_known(attacker, members):
    for member in members:
        await attacker.ask(member, FindPeers(ids.of_key("anything")))
        assert attacker.info.peer_id in member.service._node.table


async def found(member, key="key"):
    return [record.value for record in await member.service.lookup(key)]


async def test_forged_records_are_not_kept(autojump_clock, hive, victims, identity):
    attacker = Attacker(hive, identity(66))
    genuine = records.sign(victims[1].identity, "key", b"lie", sequence=2**60, expires_at=trio.current_time() + 60)
    forged = SignedBytes(genuine.body, identity(66).sign(records.DOMAIN, genuine.body))
    response = await attacker.ask(victims[0], Store((forged,)))
    assert [refusal.index for refusal in response.refusals] == [0]
    assert "not signed" in response.refusals[0].reason
    assert victims[0].service.statistics().refused == 1
    assert await found(victims[2]) == [b"true"]


async def test_one_bad_record_does_not_spoil_the_batch(autojump_clock, hive, victims, identity):
    attacker = Attacker(hive, identity(66))
    now = trio.current_time()
    good = records.sign(attacker.identity, "mine", b"v", sequence=1, expires_at=now + 60)
    expired = records.sign(attacker.identity, "old", b"v", sequence=1, expires_at=now)
    response = await attacker.ask(victims[0], Store((wire.as_bytes(expired), wire.as_bytes(good))))
    assert [refusal.index for refusal in response.refusals] == [0]
    assert await found(victims[2], "mine") == [b"v"]


async def test_the_replay_of_an_older_record_changes_nothing(autojump_clock, hive, victims, identity):
    (old,) = victims[0].service._node.store.get("key", trio.current_time())
    await trio.sleep(1)
    await victims[1].service.publish("key", b"newer", lifetime=600)
    attacker = Attacker(hive, identity(66))
    for victim in victims:
        await attacker.ask(victim, Store((wire.as_bytes(old),)))
    assert await found(victims[2]) == [b"newer"]


async def test_a_replica_that_serves_old_forged_and_foreign_records(autojump_clock, hive, victims, identity):
    now = trio.current_time()
    (old,) = victims[0].service._node.store.get("key", now)
    await trio.sleep(1)
    await victims[1].service.publish("key", b"newer", lifetime=600)
    foreign = records.sign(identity(66), "other key", b"v", sequence=1, expires_at=now + 60)
    expired = records.sign(identity(66), "key", b"v", sequence=1, expires_at=now)
    lies = (
        wire.as_bytes(old),
        SignedBytes(old.body, bytes(64)),
        SignedBytes(b"no record", bytes(64)),
        wire.as_bytes(foreign),
        wire.as_bytes(expired),
    )

    async def answer(request):
        return wire.encode_response(Response(records=lies))

    attacker = Attacker(hive, identity(66), answer)
    await make_known(attacker, victims)
    assert await found(victims[2]) == [b"newer"]
    assert attacker.asked
    assert victims[2].service.statistics().refused >= 3


async def test_nobody_asks_in_the_name_of_another(autojump_clock, hive, victims, identity):
    attacker = Attacker(hive, identity(66))
    stolen = replace(attacker.info, peer_id=victims[1].peer_id)
    with pytest.raises(ProtocolError, match="calls itself"):
        await attacker.ask(victims[0], FindPeers(ids.of_key("anything")), sender=stolen)
    assert victims[0].service._node.table.get(victims[1].peer_id) == victims[1].info
    assert identity(66).peer_id not in victims[0].service._node.table


async def test_what_others_say_of_a_known_peers_address_is_not_believed(autojump_clock, hive, victims, identity):
    lie = PeerInfo(victims[1].peer_id, ("/memory/666",))

    async def answer(request):
        return wire.encode_response(Response(peers=(lie,)))

    attacker = Attacker(hive, identity(66), answer)
    await make_known(attacker, victims)
    for _ in range(3):
        assert await found(victims[2]) == [b"true"]
    assert victims[2].service._node.table.get(victims[1].peer_id) == victims[1].info


async def oversized(request):
    peer = dht_pb2.Peer(peer_id=request.sender.peer_id)
    return dht_pb2.Response(peers=[peer] * 1000)


async def too_many_records(request):
    record = common_pb2.Signed(body=b"b", signature=bytes(64))
    return dht_pb2.Response(records=[record] * (wire.MOST_RECORDS + 1))


async def enormous(request):
    # Over the frame's own bound: it is not even sent, and the conversation ends with a failure.
    return dht_pb2.Response(next="a" * (1 << 21))


async def no_answer(request):
    await trio.sleep_forever()


async def in_circles(request):
    # A cursor that does not move on.
    if isinstance(request.question, FindRecords):
        return dht_pb2.Response(next=request.question.after or "1")
    return dht_pb2.Response()


async def endless(request):
    # A cursor that always moves on.
    if isinstance(request.question, FindRecords):
        return dht_pb2.Response(next=request.question.after + "z")
    return dht_pb2.Response()


async def hangs_up(request):
    raise StreamClosedError("gone")


@pytest.mark.parametrize("answer", [oversized, too_many_records, enormous, no_answer, in_circles, endless, hangs_up])
async def test_a_lookup_and_a_publication_succeed_whatever_one_replica_answers(
    autojump_clock, hive, victims, identity, answer
):
    attacker = Attacker(hive, identity(66), answer)
    await make_known(attacker, victims)
    started = trio.current_time()
    assert await found(victims[2]) == [b"true"]
    await victims[2].service.publish("second", b"v", lifetime=60)
    assert await found(victims[0], "second") == [b"v"]
    assert attacker.asked
    assert len(attacker.asked) < 3 * service.MOST_CHANNELS_OF_PEER * 4
    assert trio.current_time() - started < 3 * REQUEST_DEADLINE + 1


async def test_pages_in_circles_are_not_followed(autojump_clock, hive, victims, identity):
    attacker = Attacker(hive, identity(66), in_circles)
    await make_known(attacker, victims)
    assert await found(victims[2]) == [b"true"]
    reads = [message.find_records for message in attacker.asked if message.HasField("find_records")]
    assert [read.after for read in reads] == ["", "1"]


async def test_a_busy_peer_is_not_taken_for_dead(autojump_clock, hive, victims, identity):
    async def busy(request):
        raise BusyError("later")

    attacker = Attacker(hive, identity(66), busy)
    await make_known(attacker, victims)
    assert await found(victims[2]) == [b"true"]
    assert victims[2].service.statistics().failures >= 1
    assert attacker.info.peer_id in victims[2].service._node.table


async def test_made_up_peers_cost_little_and_fill_nothing(autojump_clock, hive, victims, identity):
    made_up = tuple(PeerInfo(identity(1000 + number).peer_id, ("/memory/666",)) for number in range(wire.MOST_PEERS))

    async def answer(request):
        return wire.encode_response(Response(peers=made_up))

    attacker = Attacker(hive, identity(66), answer)
    await make_known(attacker, victims)
    assert await found(victims[2]) == [b"true"]
    assert victims[2].service.statistics().peers == 3


async def test_one_peer_cannot_take_all_channels(autojump_clock, hive, victims, identity):
    attacker = Attacker(hive, identity(66))
    attacker.router.learn(victims[0].info)
    held = []
    for _ in range(service.MOST_CHANNELS_OF_PEER):
        channel = await attacker.router.open(victims[0].peer_id, PROTOCOL)
        await channel.send(wire.encode_request(Request(attacker.info, FindRecords("key"))))
        await channel.receive(dht_pb2.Response)
        held.append(channel)
    with pytest.raises(BusyError):
        await attacker.ask(victims[0], FindRecords("key"))
    assert await found(victims[2]) == [b"true"]
    for channel in held:
        await channel.aclose()
    await trio.sleep(1)
    assert (await attacker.ask(victims[0], FindRecords("key"))).records


async def test_channels_that_say_nothing_are_closed(autojump_clock, hive, victims, identity):
    attacker = Attacker(hive, identity(66))
    attacker.router.learn(victims[0].info)
    channel = await attacker.router.open(victims[0].peer_id, PROTOCOL)
    with trio.fail_after(120), pytest.raises(StreamClosedError):
        await channel.receive(dht_pb2.Response)
    await channel.aclose()
