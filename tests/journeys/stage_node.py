"""A peer that hosts one span of a checkpoint, at a place of the test's choice.

Arguments: a number that its key is made of, the folder, the span's start and stop.
Says its id and addresses on one line, reads everybody's on one line, says ``ready``, and serves until it is killed or
its input ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import trio

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding.engine import Engine
from hivemind_p2p.sharding.hosting import Loaded
from hivemind_p2p.sharding.service import StageService
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, PeerInfo

LINK = Link("magnet:fixed")
MEMORY = 2**28
LISTEN = ["/ip4/127.0.0.1/tcp/0"]


class Nowhere:
    """A directory and offers in which nothing is."""

    async def lookup(self, key: str) -> tuple[()]:
        """Nothing."""
        return ()

    async def offers(self, *, fresh: bool = False) -> tuple[Offer, ...]:
        """Nothing."""
        return ()

    async def set_stages(self, stages: Any, **_: Any) -> None:
        """Nobody asks."""


async def serve(number: int, folder: Path, span: LayerSpan) -> None:
    """Runs the peer."""
    engine = Engine.load(folder, checkpoints.open_folder(folder), span)
    nowhere: Any = Nowhere()
    async with (
        open_transport(Identity(number.to_bytes(32, "big")), LISTEN) as transport,
        trio.open_nursery() as nursery,
    ):
        network = Router(transport, nursery)
        service = StageService(network, nowhere, nowhere, nowhere, None, memory_bytes=MEMORY)
        service.host.stages[LINK, span] = Loaded(engine)
        await nursery.start(service.run)
        print(json.dumps([network.peer_id, list(network.addresses)]), flush=True)
        line = await trio.to_thread.run_sync(sys.stdin.readline)
        for peer, addresses in json.loads(line):
            network.learn(PeerInfo(PeerId(peer), tuple(addresses)))
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), Path(sys.argv[2]), LayerSpan(int(sys.argv[3]), int(sys.argv[4])))
