"""Where the hive's tracker is.

Participants: the bootstrap, which may serve a BitTorrent tracker; a peer that shares a content and writes a
    ``.torrent`` file for clients outside of the hive.

Messages: `TrackerRequest` and `TrackerAnswer`, one of each on a channel.

Goals: A ``.torrent`` file names the tracker of the hive that it comes from without anybody typing its URL, and the
    tracker serves what peers of its hive share and nothing else.

Non-goals: Announcing, which is done over HTTP; peers of a hive find each other through the directory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from hivemind_p2p.bt.concurrency import close, within
from hivemind_p2p.bt.hashing import HASH
from hivemind_p2p.bt.link import trackers_among
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.interfaces import Channel, Network
from hivemind_p2p.proto.tracker_pb2 import TrackerAnswer, TrackerRequest
from hivemind_p2p.types import PeerId

PROTOCOL = "/hivemind/tracker/1"

DEADLINE: Final = 5.0
"""Seconds for a whole conversation."""

MOST_CHANNELS: Final = 64
"""Conversations at once: each is over within a millisecond."""


Register: TypeAlias = Callable[[bytes, PeerId], str]
"""Registers a content for a peer; the URL of the tracker, or nothing where there is no room."""


def serve_tracker_address(network: Network, register: Register) -> None:
    """Registers the contents of whoever asks, and says where the tracker is."""

    async def answer(channel: Channel) -> None:
        with within(DEADLINE, "a question for the tracker"):
            request, _ = await channel.receive(TrackerRequest)
            if len(request.infohash) != HASH:
                raise ProtocolError(f"an info hash has {HASH} bytes, this has {len(request.infohash)}")
            await channel.send(TrackerAnswer(url=register(request.infohash, channel.remote)))

    network.serve(PROTOCOL, answer, most_at_once=MOST_CHANNELS)


async def register_with_tracker(network: Network, bootstrap: PeerId, infohash: bytes) -> str | None:
    """Registers a content with the hive's tracker; its URL, or None where the hive has none, or it is full.

    Raises:
        NetworkError: The bootstrap cannot be reached, does not know the question, or did not answer in time.
    """
    with within(DEADLINE, f"the address of the tracker from peer {bootstrap}"):
        channel = await network.open(bootstrap, PROTOCOL, deadline=DEADLINE)
        try:
            await channel.send(TrackerRequest(infohash=infohash))
            answer, _ = await channel.receive(TrackerAnswer)
        finally:
            await close(channel)
    return next(iter(trackers_among([answer.url])), None)
