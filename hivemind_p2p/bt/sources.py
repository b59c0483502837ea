"""Finding the peers that have a content, reaching them, and asking them for its manifest."""

from __future__ import annotations

from functools import partial

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.concurrency import RunSync, close, nursery_of_one, within
from hivemind_p2p.bt.conversation import patience, receive
from hivemind_p2p.bt.metainfo import LARGEST_MANIFEST, Manifest
from hivemind_p2p.bt.metainfo_codec import parse
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
from hivemind_p2p.types import PeerId, PeerInfo

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

    async def open(self, peer: PeerId, told: PeerInfo | None = None) -> Channel:
        """A channel to a source; the directory is asked for its addresses where the network knows none that answers.

        Args:
            peer: Who.
            told: Where others say that it can be dialled. Believed last of all: what somebody tells of a peer must
                not replace what that peer itself has published.

        Raises:
            PeerUnreachableError: It did not answer, or nobody knows it.
            DeadlineExceededError: It did not answer in time.
        """
        try:
            return await self._network.open(peer, PROTOCOL, deadline=REQUEST_DEADLINE)
        except PeerUnreachableError:
            await self._learn(peer, told)
        return await self._network.open(peer, PROTOCOL, deadline=REQUEST_DEADLINE)

    async def _learn(self, peer: PeerId, told: PeerInfo | None) -> None:
        try:
            self._network.learn(await self._directory.find_peer(peer))
        except PeerUnreachableError:
            if told is None or not told.addresses:
                raise
            self._network.learn(told)

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
        search = _ManifestSearch(self, run_sync)
        with trio.move_on_after(IDLE_DEADLINE):
            await search.run()
        if search.found is not None:
            return search.found
        if search.wrong and search.wrong.keys() == self.failures.keys():
            raise next(iter(search.wrong.values()))
        raise NoSourceError(f"nobody sent the manifest of {self.infohash.hex()}: {self.tried()}")

    async def ask_manifest(self, peer: PeerId, run_sync: RunSync) -> Manifest:
        """The manifest from one source.

        Raises:
            HivemindError: It did not send it, or a wrong one.
        """
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


class _ManifestSearch:
    """Asks one source after the other for a manifest, the next one when the last takes long."""

    def __init__(self, sources: Sources, run_sync: RunSync) -> None:
        self.found: Manifest | None = None
        self.wrong: dict[PeerId, ManifestError] = {}
        self._sources = sources
        self._run_sync = run_sync
        self._done = trio.Event()
        self._asked: set[PeerId] = set()

    async def run(self) -> None:
        """Goes on until it is found."""
        async with nursery_of_one() as nursery:
            wait = FIRST_WAIT
            while not self._done.is_set():
                await self._ask_all(nursery)
                with trio.move_on_after(wait):
                    await self._done.wait()
                wait = min(wait * 2, LONGEST_WAIT)
            nursery.cancel_scope.cancel()

    async def _ask_all(self, nursery: trio.Nursery) -> None:
        for peer in await self._sources.find():
            if peer in self._asked or self._done.is_set():
                continue
            self._asked.add(peer)
            nursery.start_soon(self._ask, peer)
            with trio.move_on_after(STAGGER):
                await self._done.wait()

    async def _ask(self, peer: PeerId) -> None:
        try:
            self.found = await self._sources.ask_manifest(peer, self._run_sync)
            self._done.set()
        except UnsafePathError:
            raise
        except ManifestError as error:
            # Not asked again, while a source that could not be reached is.
            self.wrong[peer] = error
            self._sources.failures[peer] = error.message
            _events.warning("wrong_manifest", peer=peer, infohash=self._sources.infohash.hex(), error=error.message)
        except HivemindError as error:
            self._sources.failures[peer] = error.message
            self._asked.discard(peer)
