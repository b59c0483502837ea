"""A stock libp2p DHT, set to our protocol id, finds peers and providers through ours, and ours through it."""

import gc
import time
import warnings
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht import common, kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.records.pubkey import PublicKeyValidator
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from hivemind_p2p.dht import kademlia_node, records
from hivemind_p2p.dht.kademlia_service import PROTOCOL
from hivemind_p2p.dht.kademlia_wire import peer_bytes
from hivemind_p2p.dht.service import DirectoryService
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.types import PeerId, PeerInfo

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
SEED, OTHER, STOCK = Identity(b"1" * 32), Identity(b"2" * 32), Identity(b"s" * 32)
PATIENCE = 60


class SignedRecords(Validator):
    """What a stock peer needs to know of our records: any of them, the first one found."""

    def validate(self, key, value):
        return None

    def select(self, key, values):
        return 0


@pytest.fixture(autouse=True)
def left_sockets():
    """Where both sides dial at once, that library leaves the socket that it gives up to the garbage collector."""
    yield
    # Here, and not at the end of `hive`: only now does nothing refer to it any more.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def our_protocol(monkeypatch):
    """The protocol id is fixed in that library, in each of its modules."""
    for module in (common, kad_dht, peer_routing, provider_store, value_store):
        monkeypatch.setattr(module, "PROTOCOL_ID", PROTOCOL)


@asynccontextmanager
async def ours(identity, nursery, seeds=()):
    async with open_transport(identity, [LOOPBACK]) as transport:
        router = Router(transport, nursery)
        for seed in seeds:
            router.learn(seed)
        directory = DirectoryService(router, identity, clock=time.time, seeds=seeds)
        await nursery.start(directory.run)
        yield directory, PeerInfo(identity.peer_id, router.addresses)


@asynccontextmanager
async def hive():
    """Two of our peers that know each other, and a stock DHT that knows the first of them."""
    host = new_host(key_pair=create_new_key_pair(STOCK.seed))
    with trio.fail_after(PATIENCE):
        async with (
            trio.open_nursery() as nursery,
            host.run([Multiaddr(LOOPBACK)]),
            ours(SEED, nursery) as (seed, place),
            ours(OTHER, nursery, [place]) as (other, _),
        ):
            await host.connect(info_from_p2p_addr(Multiaddr(f"{place.addresses[0]}/p2p/{SEED.peer_id}")))
            validator = NamespacedValidator({"pk": PublicKeyValidator(), "hivemind": SignedRecords()})
            dht = KadDHT(host, DHTMode.SERVER, validator=validator, validator_changed=True)
            await dht.routing_table.add_peer(ID(peer_bytes(SEED.peer_id)), skip_server_mode_check=True)
            async with background_trio_service(dht):
                yield seed, other, dht, host
            nursery.cancel_scope.cancel()
        await host.close()


async def until_known(standard, peer):
    """Waits until a stranger has been identified: it says where it is while our answer is on its way."""
    while not standard._kademlia.knows(peer):  # noqa: ASYNC110 - nothing tells of it
        await trio.sleep(0.05)


async def test_a_stock_dht_and_ours_find_peers_and_providers_through_each_other(our_protocol):
    async with hive() as (seed, other, dht, _):
        # A stock peer finds one of ours that it never met, through another of ours.
        found = await dht.find_peer(ID(peer_bytes(OTHER.peer_id)))
        assert found is not None
        assert found.addrs
        # One of ours finds the stock peer, which it never met, through another of ours.
        await until_known(seed.standard, STOCK.peer_id)
        peers = await other.standard.find_peers(peer_bytes(STOCK.peer_id))
        assert peers[0].peer_id == STOCK.peer_id
        # What a stock peer provides, ours find; and the other way round.
        key = b"\x12\x20" + b"k" * 32
        assert await dht.provider_store.provide(key)
        assert {info.peer_id for info in await other.standard.find_providers(key)} == {STOCK.peer_id}
        key = b"\x12\x20" + b"m" * 32
        assert await other.standard.provide(key) >= 1
        providers = await dht.provider_store.find_providers(key)
        assert {PeerId(info.peer_id.to_base58()) for info in providers} == {OTHER.peer_id}


async def test_a_stock_dht_reads_our_records_and_stores_its_own(our_protocol):
    async with hive() as (seed, other, dht, _):
        await other.publish("greeting", b"hello", lifetime=600)
        key = kademlia_node.record_key(OTHER.peer_id, "greeting").decode()
        value = await dht.get_value(key)
        assert value is not None
        assert records.read_body(kademlia_node.unpack(value).body).value == b"hello"
        signed = records.sign(STOCK, "greeting", b"hi", sequence=1, expires_at=time.time() + 60)
        await dht.put_value(kademlia_node.record_key(STOCK.peer_id, "greeting").decode(), kademlia_node.pack(signed))
        assert {record.value for record in await seed.lookup("greeting")} == {b"hello", b"hi"}
