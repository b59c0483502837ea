"""A message of 4 MiB takes little more memory on its way than its receiver asked for."""

import tracemalloc

import trio

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.proto.common_pb2 import Signed
from hivemind_p2p.types import PeerInfo

PROTOCOL = "/test/copies/1"
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
MIB = 1 << 20
SIZE = 4 * MIB
ON_THE_WAY = 2 * MIB
"""What both ends may use besides: rooms to read to and to send from, what is decrypted and not read yet."""
PATIENCE = 30


async def test_a_large_message_exists_once(record_property):
    async with (
        open_transport(ALICE, ["/ip4/127.0.0.1/tcp/0"]) as alice,
        open_transport(BOB, []) as bob,
        trio.open_nursery() as nursery,
    ):

        async def confirm(channel):
            while True:
                _, payload = await channel.receive(Signed, max_payload=SIZE)
                assert len(payload) == SIZE
                del payload
                await channel.send(Signed())

        Router(alice, nursery).serve(PROTOCOL, confirm)
        router = Router(bob, nursery)
        router.learn(PeerInfo(ALICE.peer_id, alice.addresses))
        with trio.fail_after(PATIENCE):
            channel = await router.open(ALICE.peer_id, PROTOCOL)
            message = bytes(SIZE)
            peaks = [await _peak(channel, message) for _ in range(6)]
            await channel.aclose()
        nursery.cancel_scope.cancel()
    record_property("MiB at most", max(peaks[1:]) / MIB)
    # Not the first: it makes the rooms that all later ones share.
    assert max(peaks[1:]) < SIZE + ON_THE_WAY, [round(peak / MIB, 2) for peak in peaks]


async def _peak(channel, message):
    """Bytes of memory that one message needs on both sides together, besides the message itself."""
    tracemalloc.start()
    try:
        await channel.send(Signed(), message)
        await channel.receive(Signed)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
