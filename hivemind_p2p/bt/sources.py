"""Finding the peers that have a content, reaching them, and asking them for its manifest."""

from __future__ import annotations

from functools import partial

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.concurrency import RunSync, close, nursery_of_one, within
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST, Manifest
from hivemind_p2p.bt.metainfo_codec import parse
from hivemind_p2p.bt.serving import patience, receive
from hivemind_p2p.bt.wire import PROTOCOL, Hello, ManifestFollows, decode_record, directory_key, encode
from hivemind_p2p.defaults import IDLE_DEADLINE, REQUEST_DEADLINE
from hivemind_p2p.errors import (
    HivemindError,
    ManifestError,
    NoSourceError,
    PeerUnreachableError,
    ProtocolError,
    UnsafePathError,
)
from hivemind_p2p.interfaces import Channel, Directory, Network
from hivemind_p2p.types import PeerId

FIRST_WAIT = 0.5
"""Seconds until the directory is asked again when there is no source; doubled each time."""

LONGEST_WAIT = 5.0
"""Seconds between two such questions at the most."""

STAGGER = 1.0
"""Seconds that one source is given for the manifest before another one is asked as well."""

MOST_SOURCES = 256
"""Records of sources that are looked at: far more than can be useful, and anybody can publish one."""

_events = telemetry.source("swarm")


class Sources:
    """The sources of one content.

    Args:
        network: Opens channels.
        directory: Knows who has it.
        infohash: Which content.
    """

    def __init__(self, network: Network, directory: Directory, infohash: bytes) -> None:
        self._network = network
        self._directory = directory
        self.infohash = infohash
        self.failures: dict[PeerId, str] = {}

    async def find(self) -> tuple[PeerId, ...]:
        """Who says that it has the content, this peer left out. Nobody where the directory does not answer."""
        try:
            records = await self._directory.lookup(directory_key(self.infohash))
        except HivemindError as error:
            _events.warning("source_lookup_failed", infohash=self.infohash.hex(), error=error.message)
            return ()
        found: list[PeerId] = []
        for record in records[:MOST_SOURCES]:
            try:
                serves = decode_record(record.value) is not None
            except HivemindError:
                serves = False
            if serves and record.signer != self._network.peer_id:
                found.append(record.signer)
        return tuple(found)

    async def open(self, peer: PeerId) -> Channel:
        """A channel to a source; the directory is asked for its addresses where the network knows none that answers.

        Raises:
            PeerUnreachableError: It did not answer, or nobody knows it.
            DeadlineExceededError: It did not answer in time.
        """
        try:
            return await self._network.open(peer, PROTOCOL, deadline=REQUEST_DEADLINE)
        except PeerUnreachableError:
            self._network.learn(await self._directory.find_peer(peer))
        return await self._network.open(peer, PROTOCOL, deadline=REQUEST_DEADLINE)

    def tried(self) -> str:
        """Who was tried and what went wrong, for people."""
        if not self.failures:
            return "no source was found"
        return "; ".join(f"{peer}: {reason}" for peer, reason in self.failures.items())

    async def manifest(self, run_sync: RunSync) -> Manifest:
        """The manifest, from the first source that sends the right one.

        Raises:
            NoSourceError: Nobody did, for as long as a transfer may be idle.
            ManifestError: Everybody who was found sent a wrong one.
            UnsafePathError: The manifest is the right one, and its paths are not safe.
        """
        found: list[Manifest] = []
        wrong: dict[PeerId, ManifestError] = {}
        done = trio.Event()
        asked: set[PeerId] = set()

        async def ask(peer: PeerId) -> None:
            try:
                found.append(await self._ask_manifest(peer, run_sync))
                done.set()
            except UnsafePathError:
                raise
            except ManifestError as error:
                # Not asked again, while a source that could not be reached is.
                wrong[peer] = error
                self.failures[peer] = error.message
                _events.warning("wrong_manifest", peer=peer, infohash=self.infohash.hex(), error=error.message)
            except HivemindError as error:
                self.failures[peer] = error.message
                asked.discard(peer)

        with trio.move_on_after(IDLE_DEADLINE):
            async with nursery_of_one() as nursery:
                wait = FIRST_WAIT
                while not done.is_set():
                    for peer in await self.find():
                        if peer in asked or done.is_set():
                            continue
                        asked.add(peer)
                        nursery.start_soon(ask, peer)
                        with trio.move_on_after(STAGGER):
                            await done.wait()
                    with trio.move_on_after(wait):
                        await done.wait()
                    wait = min(wait * 2, LONGEST_WAIT)
                nursery.cancel_scope.cancel()
        if not found and wrong and wrong.keys() == self.failures.keys():
            raise next(iter(wrong.values()))
        if not found:
            raise NoSourceError(f"nobody sent the manifest of {self.infohash.hex()}: {self.tried()}")
        return found[0]

    async def _ask_manifest(self, peer: PeerId, run_sync: RunSync) -> Manifest:
        channel = await self.open(peer)
        try:
            with within(patience(LARGEST_MANIFEST), f"the manifest from peer {peer}"):
                await channel.send(encode(Hello(self.infohash, want_manifest=True)))
                message, payload = await receive(channel, max_payload=LARGEST_MANIFEST)
        finally:
            await close(channel)
        if not isinstance(message, ManifestFollows):
            raise ProtocolError(f"peer {peer} sent a {type(message).__name__} and no manifest")
        return await run_sync(partial(parse, bytes(payload), infohash=self.infohash))
