"""The peer that is given bad input: an echo service in a process of its own, so that its memory can be measured."""

import sys

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.proto.common_pb2 import Signed

PROTOCOL = "/test/bad_input/1"


async def echo(channel):
    while True:
        header, payload = await channel.receive(Signed, max_payload=1 << 20)
        await channel.send(header, payload)


async def main():
    async with open_transport(Identity(b"v" * 32), ["/ip4/127.0.0.1/tcp/0"]) as transport, trio.open_nursery() as tasks:
        Router(transport, tasks).serve(PROTOCOL, echo)
        sys.stdout.write(transport.addresses[0] + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    telemetry.configure("info")
    trio.run(main)
