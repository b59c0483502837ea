"""Our relay and libp2p's stock one serve each other's clients; what a stranger may not do with ours."""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits as StockLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from hivemind_p2p.errors import BusyError, NetworkError, PeerUnreachableError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.autonat import AutoNat
from hivemind_p2p.net.calls import Link
from hivemind_p2p.net.circuit import Circuits
from hivemind_p2p.net.links import Links
from hivemind_p2p.net.relay import HOP, STOP, Relay
from hivemind_p2p.net.relay_book import RelayLimits
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.proto import reachability_pb2 as wire
from hivemind_p2p.types import PeerInfo

ECHO = "/test/echo/1"
LISTEN = "/ip4/127.0.0.1/tcp/0"
RELAY, CALLED, CALLER = (Identity(letter * 32) for letter in (b"r", b"d", b"c"))
PATIENCE = 20


class Node:
    """One of our hosts with everything that reachability has."""

    def __init__(self, host, identity, place):
        self.host = host
        self.info = PeerInfo(identity.peer_id, (place,))
        self.links = Links(host, (place,))
        self.circuits = Circuits(self.links, connect=self.links.connect)
        self.links.serve(ECHO, self._echo)

    async def _echo(self, call):
        while data := await call.read(1 << 16):
            await call.write(data)

    def relay(self, **limits):
        return Relay(self.links, RelayLimits(**limits), clock=lambda: 1e9, addresses=lambda: self.info.addresses)

    def through(self, relay):
        return f"{relay.info.addresses[0]}/p2p/{relay.info.peer_id}/p2p-circuit"

    async def echo(self, peer, data):
        call = await self.links.call(self.links.of(peer)[0], ECHO)
        answer = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.write, data)
            while len(answer) < len(data):
                more = await call.read(1 << 16)
                if not more:
                    raise NetworkError("ended")
                answer += more
        await call.close()
        return answer


@asynccontextmanager
async def nodes(*identities):
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_transport(identity, [LISTEN])) for identity in identities]
        with trio.fail_after(PATIENCE):
            yield [Node(each.host, who, each.addresses[0]) for each, who in zip(opened, identities, strict=True)]


@asynccontextmanager
async def stock(identity, *, relays):
    host = new_host(key_pair=create_new_key_pair(identity.seed))
    limits = StockLimits(duration=600, data=1 << 30, max_circuit_conns=8, max_reservations=4)
    protocol = CircuitV2Protocol(host, limits=limits, allow_hop=relays)
    async with host.run([Multiaddr(LISTEN)]), background_trio_service(protocol):
        await protocol.event_started.wait()
        yield host, protocol
        for connection in list(host.get_network().get_connections()):
            await connection.close()
            await connection.muxed_conn.secured_conn.close()
    await host.close()


async def test_a_call_through_our_relay_is_encrypted_between_its_ends_and_marked():
    async with nodes(RELAY, CALLED, CALLER) as (relay, called, caller):
        service = relay.relay()
        reservation = await called.circuits.reserve(relay.info)
        assert reservation.expires == 1e9 + 3600
        link = Link(await caller.circuits.dial(called.info.peer_id, caller.through(relay)))
        assert link.relayed
        assert link.peer == called.info.peer_id
        assert await caller.echo(called.info.peer_id, b"x" * 200_000) == b"x" * 200_000
        await link.close()
        while service.statistics().circuits:  # noqa: ASYNC110 - the relay tells nobody
            await trio.sleep(0.01)
        assert service.statistics().relayed_bytes > 400_000


async def test_a_peer_without_a_place_is_not_called():
    async with nodes(RELAY, CALLED, CALLER) as (relay, called, caller):
        relay.relay()
        await called.links.connect(relay.info)
        with pytest.raises(PeerUnreachableError, match="NO_RESERVATION"):
            await caller.circuits.dial(called.info.peer_id, caller.through(relay))


async def test_a_relay_that_is_full_says_so():
    async with nodes(RELAY, CALLED) as (relay, called):
        relay.relay(reservations=0)
        with pytest.raises(BusyError, match="RESERVATION_REFUSED"):
            await called.circuits.reserve(relay.info)


async def test_a_place_is_given_to_who_asks_not_to_whom_the_message_names():
    async with nodes(RELAY, CALLED, CALLER) as (relay, called, caller):
        service = relay.relay()
        call = await caller.links.call(await caller.links.connect(relay.info), HOP)
        named = wire.RelayPeer(id=called.host.get_id().to_bytes())
        await call.send(wire.HopMessage(type=wire.HopMessage.RESERVE, peer=named))
        assert (await call.receive(wire.HopMessage)).status == wire.RelayStatus.OK
        assert service.holders() == (caller.info.peer_id,)


async def test_a_call_from_a_relay_that_was_never_asked_is_refused():
    async with nodes(CALLED, CALLER) as (called, liar):
        call = await liar.links.call(await liar.links.connect(called.info), STOP)
        pretended = wire.RelayPeer(id=liar.host.get_id().to_bytes())
        await call.send(wire.StopMessage(type=wire.StopMessage.CONNECT, peer=pretended))
        assert (await call.receive(wire.StopMessage)).status == wire.RelayStatus.PERMISSION_DENIED


async def test_a_caller_is_who_it_says_whatever_the_relay_says():
    async with nodes(RELAY, CALLED) as (relay, called):
        called.circuits.relays.add(relay.info.peer_id)
        call = await relay.links.call(await relay.links.connect(called.info), STOP)
        pretended = wire.RelayPeer(id=ID.from_base58(CALLER.peer_id).to_bytes())
        await call.send(wire.StopMessage(type=wire.StopMessage.CONNECT, peer=pretended))
        assert (await call.receive(wire.StopMessage)).status == wire.RelayStatus.OK
        await call.write(b"\x13/multistream/1.0.0\n" + bytes(100))
        while await call.read(1 << 16):
            pass
        assert called.links.of(CALLER.peer_id) == ()


async def test_a_peer_is_called_back_at_its_own_host_only_and_by_its_key():
    async with nodes(RELAY, CALLER) as (witness, peer):
        AutoNat(witness.links)
        asking = AutoNat(peer.links)
        link = await peer.links.connect(witness.info)
        there, nobody = peer.info.addresses[0], "/ip4/127.0.0.1/tcp/1"
        elsewhere, somebody_else = "/ip4/127.0.0.2/tcp/4001", witness.info.addresses[0]
        tried = await asking.ask(link, [there, nobody, elsewhere, somebody_else])
        assert [(each.address, each.reached) for each in tried] == [
            (there, True),
            (nobody, False),
            (somebody_else, False),
        ]


async def test_our_client_uses_a_stock_relay():
    async with nodes(CALLED, CALLER) as (called, caller), stock(RELAY, relays=True) as (host, _):
        place = str(host.get_addrs()[0]).partition("/p2p/")[0]
        info = PeerInfo(RELAY.peer_id, (place,))
        await called.circuits.reserve(info)
        await caller.circuits.dial(called.info.peer_id, f"{place}/p2p/{RELAY.peer_id}/p2p-circuit")
        assert await caller.echo(called.info.peer_id, b"y" * 50_000) == b"y" * 50_000


async def test_a_stock_client_uses_our_relay():
    async with nodes(RELAY, CALLED) as (relay, called), stock(CALLER, relays=False) as (host, protocol):
        relay.relay()
        await called.circuits.reserve(relay.info)
        config = RelayConfig(roles=RelayRole.STOP | RelayRole.CLIENT)
        through = Multiaddr(f"{called.through(relay)}/p2p/{CALLED.peer_id}")
        await host.connect(info_from_p2p_addr(Multiaddr(f"{relay.info.addresses[0]}/p2p/{RELAY.peer_id}")))
        await CircuitV2Transport(host, protocol, config).dial(through)
        stream = await host.new_stream(ID.from_base58(CALLED.peer_id), [TProtocol(ECHO)])
        await stream.write(b"hello")
        assert await stream.read(5) == b"hello"
        await stream.close()
