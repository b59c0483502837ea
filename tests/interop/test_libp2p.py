"""Our transport and a stock libp2p host understand each other, whichever dials."""

from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.host.ping import handle_ping
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.types import PeerId, PeerInfo

ECHO = "/test/echo/1"
ALICE, STOCK = Identity(b"a" * 32), Identity(b"s" * 32)
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
PATIENCE = 20
DATA = bytes(range(256)) * 2000


@asynccontextmanager
async def stock_and_ours():
    host = new_host(key_pair=create_new_key_pair(STOCK.seed))
    async with open_transport(ALICE, [LOOPBACK]) as ours, host.run([Multiaddr(LOOPBACK)]):
        with trio.fail_after(PATIENCE):
            yield host, ours
        await host.close()


def place_of(host):
    return tuple(str(address).partition("/p2p/")[0] for address in host.get_addrs())


async def ask_stock(ours, protocol, question):
    stream = await ours.open_stream(STOCK.peer_id, protocol)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, question)
        answer = bytearray()
        while len(answer) < len(question):
            answer += await stream.receive_some()
    await stream.aclose()
    return bytes(answer)


async def test_a_seed_gives_the_peer_id_that_libp2p_gives():
    host = new_host(key_pair=create_new_key_pair(STOCK.seed))
    assert PeerId(host.get_id().to_base58()) == STOCK.peer_id
    await host.close()


async def test_our_transport_dials_a_stock_host():
    async with stock_and_ours() as (host, ours):

        async def echo(stream):
            received = 0
            while received < len(DATA):
                data = await stream.read(65536)
                received += len(data)
                await stream.write(data)
            await stream.close()

        host.set_stream_handler(TProtocol(ECHO), echo)
        ours.learn(PeerInfo(STOCK.peer_id, place_of(host)))
        assert await ask_stock(ours, ECHO, DATA) == DATA


async def test_a_stock_host_answers_our_ping():
    async with stock_and_ours() as (host, ours):
        host.set_stream_handler(PING, handle_ping)
        ours.learn(PeerInfo(STOCK.peer_id, place_of(host)))
        assert await ask_stock(ours, str(PING), bytes(range(32))) == bytes(range(32))


@pytest.mark.parametrize("size", [10, len(DATA)])
async def test_a_stock_host_dials_our_transport(size):
    async with stock_and_ours() as (host, ours):

        async def echo(stream):
            while data := await stream.receive_some():
                await stream.send_all(data)
            await stream.aclose()

        ours.set_handler(ECHO, echo)
        await host.connect(info_from_p2p_addr(Multiaddr(f"{ours.addresses[0]}/p2p/{ALICE.peer_id}")))
        stream = await host.new_stream(host.get_network().get_connections()[0].muxed_conn.peer_id, [TProtocol(ECHO)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, DATA[:size])
            answer = bytearray()
            while len(answer) < size:
                answer += await stream.read(65536)
        assert answer == DATA[:size]
        await stream.close()


async def test_a_stock_host_identifies_our_transport():
    async with stock_and_ours() as (host, ours):
        ours.set_handler(ECHO, trio.sleep)
        info = info_from_p2p_addr(Multiaddr(f"{ours.addresses[0]}/p2p/{ALICE.peer_id}"))
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [IDENTIFY])
        response = bytearray()
        while not response or len(response) < response[0]:
            response += await stream.read(65536)
        identified = parse_identify_response(bytes(response))
        assert ECHO in identified.protocols
        await stream.close()
