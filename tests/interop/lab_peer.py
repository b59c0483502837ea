"""A peer for the lab: its host and its reachability, told what to do by lines of JSON on stdin.

Answers each line by one line on stdout; ends when stdin does.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import trio

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.addresses import circuit_addresses, is_circuit, split_peer
from hivemind_p2p.net.calls import Call, Link
from hivemind_p2p.net.reachability_service import ReachabilityService, ReachabilitySettings
from hivemind_p2p.net.reachable import make_reachable
from hivemind_p2p.net.relay_book import RelayLimits
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.types import PeerId

ECHO, SINK = "/lab/echo/1", "/lab/sink/1"
CHUNK = 1 << 20


class LabPeer:
    """Does what it is told."""

    def __init__(self, service: ReachabilityService, identity: Identity) -> None:
        self.service = service
        self.identity = identity
        self.calls: dict[str, Call] = {}
        service.links.serve(ECHO, self._echo)
        service.links.serve(SINK, self._sink)

    async def _echo(self, call: Call) -> None:
        while data := await call.read(CHUNK):
            await call.write(data)

    async def _sink(self, call: Call) -> None:
        left = int.from_bytes(await call.read(8), "big")
        while left > 0:
            data = await call.read(CHUNK)
            if not data:
                return
            left -= len(data)
        await call.write(b"k")

    async def view(self) -> dict[str, Any]:
        """What the network looks like."""
        told = dataclasses.asdict(self.service.statistics())
        view = told["view"]
        flat = {"reachability", "nat", "gateway"}
        told["view"] = {name: value.value if name in flat else value for name, value in view.items()}
        told["view"]["relayed"] = self.service.view.relayed
        return told

    async def links(self, peer: str) -> list[bool]:
        """Of each connection to a peer whether it is relayed."""
        return [link.relayed for link in self.service.links.of(PeerId(peer))]

    async def connect(self, addresses: Sequence[str]) -> bool:
        """Connects to a peer at full addresses; whether through a relay."""
        failures = []
        for address in addresses:
            peer = split_peer(address)
            link = next(iter(self.service.links.of(peer.peer_id)), None)
            if link is not None:
                return link.relayed
            try:
                if is_circuit(peer.addresses[0]):
                    return Link(await self.service.circuits.dial(peer.peer_id, peer.addresses[0])).relayed
                with trio.fail_after(2):
                    return Link(await self.service.links.dial(peer.peer_id, peer.addresses[0])).relayed
            except (Exception, trio.TooSlowError) as error:
                failures.append(f"{address}: {error!r}")
        raise RuntimeError("; ".join(failures))

    async def timed_connect(self, addresses: Sequence[str]) -> float:
        """Seconds that connecting takes."""
        started = time.perf_counter()
        await self.connect(addresses)
        return time.perf_counter() - started

    async def echo(self, peer: str, size: int, name: str = "") -> dict[str, Any]:
        """Sends bytes and has them back over the best connection, or over the stream that is kept under a name."""
        call = self.calls.get(name)
        if call is None:
            call = await self.service.links.call(self.service.links.of(PeerId(peer))[0], ECHO)
        started = time.perf_counter()
        sent, received = bytes(size), 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.write, sent)
            while received < size:
                data = await call.read(CHUNK)
                if not data:
                    raise RuntimeError(f"ended after {received} of {size} bytes")
                received += len(data)
        if name:
            self.calls[name] = call
        else:
            await call.close()
        return {"relayed": call.endpoint is None, "seconds": time.perf_counter() - started}

    async def send(self, peer: str, size: int) -> float:
        """Megabytes a second of a transfer to a peer."""
        call = await self.service.links.call(self.service.links.of(PeerId(peer))[0], SINK)
        started, block = time.perf_counter(), bytes(CHUNK)
        await call.write(size.to_bytes(8, "big"))
        for _ in range(size // CHUNK):
            await call.write(block)
        await call.read(1)
        await call.close()
        return size / (time.perf_counter() - started) / 1e6

    async def reserve(self, relay: str) -> list[str]:
        """Takes a place at a relay, needed or not; the addresses through it."""
        info = split_peer(relay)
        await self.service.circuits.reserve(info)
        return [f"{address}/p2p/{self.identity.peer_id}" for address in circuit_addresses(info)]

    async def hop(self, peer: str) -> str:
        """Tries to use a peer as a relay over the best connection, relayed or not; what it says."""
        from hivemind_p2p.net.relay import HOP
        from hivemind_p2p.proto import reachability_pb2 as wire

        call = await self.service.links.call(self.service.links.of(PeerId(peer))[0], HOP)
        await call.send(wire.HopMessage(type=wire.HopMessage.RESERVE))
        answer = await call.receive(wire.HopMessage)
        await call.close()
        return wire.RelayStatus.Name(answer.status)


async def main(told: dict[str, Any]) -> None:
    """Runs a peer."""
    identity = Identity(bytes.fromhex(told["seed"]))
    settings = ReachabilitySettings(
        trusted=tuple(split_peer(address) for address in told.get("trusted", ())),
        witnesses=lambda: _peers(told.get("witnesses", ())),
        relays=lambda: _peers(told.get("relays", ())),
        limits=RelayLimits(**told["limits"]) if "limits" in told else None,
        upnp=told.get("upnp", False),
    )
    async with open_transport(identity, [told["listen"]]) as transport, trio.open_nursery() as nursery:
        service = make_reachable(transport, settings, clock=time.time)
        peer = LabPeer(service, identity)
        await nursery.start(service.run)
        await _obey(peer, {"peer": identity.peer_id, "addresses": service.view.advertised})
        nursery.cancel_scope.cancel()


async def _peers(addresses: Sequence[str]) -> list[Any]:
    return [split_peer(address) for address in addresses]


async def _obey(peer: LabPeer, ready: dict[str, Any]) -> None:
    print(json.dumps(ready), flush=True)
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        order = json.loads(line)
        try:
            answer = {"answer": await getattr(peer, order.pop("do"))(**order)}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if "-v" in sys.argv:
        from hivemind_p2p import telemetry

        telemetry.configure()
    trio.run(main, json.loads(sys.argv[1]))
