"""Our Noise below stock libp2p hosts, over TCP: with stock Noise at the other end, and in a private hive."""

from contextlib import asynccontextmanager

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from hivemind_p2p.errors import HandshakeError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.noise import PRIVATE_PROTOCOL, PROTOCOL
from hivemind_p2p.net.noise_transport import NoiseTransport

ECHO = TProtocol("/test/echo/1")
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
SECRET = b"k" * 32
LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")
DATA = bytes(range(256)) * 1000
PATIENCE = 20

Stock = object()


def host_of(identity, secret=None, aes=None):
    if secret is Stock:
        return new_host(key_pair=create_new_key_pair(identity.seed))
    transport = NoiseTransport(identity, secret, aes=aes)
    return new_host(key_pair=transport.key_pair, sec_opt={TProtocol(transport.protocol): transport})


@asynccontextmanager
async def two_hosts(alices, bobs, *, aes=(None, None)):
    alice, bob = host_of(ALICE, alices, aes[0]), host_of(BOB, bobs, aes[1])

    async def echo(stream):
        received = 0
        while received < len(DATA):
            data = await stream.read(65536)
            received += len(data)
            await stream.write(data)
        await stream.close()

    bob.set_stream_handler(ECHO, echo)
    async with alice.run([LOOPBACK]), bob.run([LOOPBACK]):
        with trio.fail_after(PATIENCE):
            yield alice, bob
        await alice.close()
        await bob.close()


async def dial(alice, bob):
    address = str(bob.get_addrs()[0]).partition("/p2p/")[0]
    return await alice.get_network().dial_addr(Multiaddr(address), ID.from_base58(BOB.peer_id))


@pytest.mark.parametrize(
    ("alices", "bobs", "protocol"),
    [(None, Stock, PROTOCOL), (Stock, None, PROTOCOL), (None, None, PROTOCOL), (SECRET, SECRET, PRIVATE_PROTOCOL)],
    ids=["we dial stock", "stock dials us", "ours", "private"],
)
@pytest.mark.parametrize("aes", [(True, True), (True, False), (False, True)], ids=["aes", "one side", "other side"])
async def test_an_echo(alices, bobs, protocol, aes):
    async with two_hosts(alices, bobs, aes=aes) as (alice, bob):
        connection = await dial(alice, bob)
        assert connection.muxed_conn.negotiated_security_protocol == protocol
        stream = await alice.new_stream(bob.get_id(), [ECHO])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, DATA)
            answer = bytearray()
            while len(answer) < len(DATA):
                answer += await stream.read(65536)
        assert answer == DATA
        await stream.close()


@pytest.mark.parametrize(
    ("alices", "bobs"),
    [(SECRET, Stock), (Stock, SECRET), (None, SECRET)],
    ids=["member dials", "stock dials", "open dials"],
)
async def test_a_private_hive_and_the_others_have_nothing_in_common(alices, bobs):
    async with two_hosts(alices, bobs) as (alice, bob):
        with pytest.raises(SwarmException, match="failed to negotiate the secure protocol"):
            await dial(alice, bob)
        assert not alice.get_network().get_connections()
        assert not bob.get_network().get_connections()


async def test_another_hives_key_is_refused():
    async with two_hosts(SECRET, b"o" * 32) as (alice, bob):
        with pytest.raises(SwarmException) as caught:
            await dial(alice, bob)
        error = caught.value
        while not isinstance(error, HandshakeError):
            error = error.__cause__
        assert "may have another hive key" in error.message
        assert not bob.get_network().get_connections()
