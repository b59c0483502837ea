"""The swarm service: shares, fetches and serves contents.

Participants: *sources*, which hold a content or some of its pieces; *fetchers*, which want pieces. A fetcher is a
    source from its first piece on. The directory, under ``content:<info hash>``, says who the sources are.
Messages: `Hello` opens a channel for one content, on which both sides may then give and take: `Holding` and `Have` say
    what is here, `Interest` what is wanted, `Choking` who is served; `Request` asks for blocks, each answered by a
    `Piece` or a `Refusal` unless a `Cancel` takes it back; `Members` tells of others. See `wire.py`.
Goals: A byte that does not match the link's hash tree reaches neither disk nor anybody else. A fetch ends complete as
    long as honest sources together have every wanted piece, whoever else lies, stalls or leaves. What arrived
    survives a kill. Only what is wanted is fetched, rarest first. Who gives is given to; who has everything gives to
    those who spread it.
Non-goals: Hiding what a peer has; contents that change.
"""

from __future__ import annotations

import os
import random
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt import duplicates, sharing, torrent_file
from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.catalogue import Catalogue
from hivemind_p2p.bt.concurrency import RunSync, in_thread
from hivemind_p2p.bt.contents import Content, Contents, ContentStatistics
from hivemind_p2p.bt.conversation import receive_hello, send
from hivemind_p2p.bt.exchange import Exchange, Limits, OnMisbehaviour
from hivemind_p2p.bt.fetching import TICK, Fetch, Wish
from hivemind_p2p.bt.hash_book import HashBook
from hivemind_p2p.bt.keeping import Keeper
from hivemind_p2p.bt.link import infohash_of
from hivemind_p2p.bt.metainfo import Manifest, ManifestFile
from hivemind_p2p.bt.piece_log import PieceLog
from hivemind_p2p.bt.piece_map import PieceMap
from hivemind_p2p.bt.placing import carry_over, copy_piece
from hivemind_p2p.bt.sources import Sources
from hivemind_p2p.bt.storage import ContentStore
from hivemind_p2p.bt.wire import PROTOCOL, ManifestFollows, directory_key, encode_record
from hivemind_p2p.defaults import CONTENT_LIFETIME
from hivemind_p2p.errors import ContentError, HivemindError, NoSourceError
from hivemind_p2p.interfaces import Channel, Clock, Directory, Network, Progress, TaskStatus
from hivemind_p2p.types import ByteRange, FetchProgress, FileEntry, Link, PeerId

KEPT_MANIFESTS = 32
"""Manifests of contents that are not here, kept so that `files` and the `fetch` after it ask once."""

FIRST_RETRY = 5.0
"""Seconds until an announcement that failed is tried again; doubled each time up to `LONGEST_RETRY`."""

LONGEST_RETRY = 60.0

_events = telemetry.source("swarm")


@dataclass(frozen=True, slots=True)
class SwarmStatistics:
    """All contents together, counted since the start.

    Attributes:
        contents: Each content that this peer has.
        downloaded_bytes: Bytes of pieces taken from others, checked and stored.
        uploaded_bytes: Bytes of pieces given to others.
        fetching: Fetches that are under way.
        serving: Conversations with others, in which each side may be served.
        banned: Sources banned for some content.
        stored_bytes: Bytes that contents in this peer's own folder take, with what is being fetched.
        storage_quota: Bytes that they may take; 0 for as many as there are.
    """

    contents: tuple[ContentStatistics, ...]
    downloaded_bytes: int
    uploaded_bytes: int
    fetching: int
    serving: int
    banned: int
    stored_bytes: int
    storage_quota: int


class SwarmService:
    """Shares, fetches and serves contents; implements `hivemind_p2p.interfaces.Content`.

    Args:
        network: Opens channels, and brings those that others open.
        directory: Knows who has what.
        folder: This peer's folder for contents; fetched ones lie in it unless told otherwise.
        clock: Seconds since the epoch.
        run_sync: Runs what blocks; tests under a mock clock hand in `concurrency.inline`.
        seed: Of the order in which equally rare pieces are asked for; by default each service has its own.
        limits: What this peer allows itself.
        on_misbehaviour: Told of peers that sent wrong bytes, and what they did.
    """

    def __init__(
        self,
        network: Network,
        directory: Directory,
        folder: Path,
        *,
        clock: Clock,
        run_sync: RunSync = in_thread,
        seed: int | None = None,
        limits: Limits | None = None,
        on_misbehaviour: OnMisbehaviour | None = None,
    ) -> None:
        self._network = network
        self._directory = directory
        self._folder = _absolute(folder)
        self._clock = clock
        self._run_sync = run_sync
        self._random = random.Random(seed)  # noqa: S311 - which piece comes first is no secret
        self._catalogue = Catalogue(self._folder)
        self._book = HashBook(self._folder / "hashes.sqlite3")
        self._contents = Contents()
        self._limits = limits or Limits()
        self._keeper = Keeper(
            self._folder,
            self._contents,
            self._catalogue,
            quota=self._limits.storage,
            clock=clock,
            run_sync=run_sync,
            is_given=self._is_given,
            part_with=self._part_with,
        )
        self._loaded = False
        self._loading = trio.Lock()
        self._locks: defaultdict[bytes, trio.Lock] = defaultdict(trio.Lock)
        self._manifests: OrderedDict[bytes, Manifest] = OrderedDict()
        self._on_misbehaviour = on_misbehaviour
        self._exchanges: dict[bytes, Exchange] = {}
        self._nursery: trio.Nursery | None = None
        self._running = trio.Event()
        self._fetching = 0
        network.serve(PROTOCOL, self._serve)

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Announces what this peer had before it was restarted, and keeps the conversations. Runs until cancelled."""
        await self._load()
        task_status.started()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._running.set()
            for content in self._contents:
                nursery.start_soon(self._announce_until_done, content)
            while True:
                await trio.sleep(TICK)
                for exchange in tuple(self._exchanges.values()):
                    if exchange.active:
                        exchange.tick()

    # -- the interface -----------------------------------------------------------------------------------------------

    async def share(self, path: Path) -> Link:
        """Hashes a file or folder in place, announces it and serves it from where it lies.

        What was hashed before and has not changed (size and modification time) is not hashed again.

        Raises:
            ContentError: There is nothing at the path, it holds no file, or it changed meanwhile.
            UnsafePathError: A name is not fit to be shared, or a symbolic link leads out of the folder.
            DiskFullError: There is no room to remember it.
            DirectoryError: It could not be announced.
        """
        await self._load()
        found = await self._run_sync(partial(sharing.scan, path))
        manifest, stamps = await sharing.make_manifest(found, book=self._book, run_sync=self._run_sync)
        async with self._locks[manifest.infohash]:
            content = self._contents.get(manifest.infohash)
            if content is None or not await self._run_sync(partial(content.store.intact, range(manifest.pieces))):
                add = partial(self._catalogue.add, manifest, found.location, now=self._clock(), shared=True)
                content = self._contents.put(await self._run_sync(partial(add, stamps=stamps)))
            await self._keeper.touch(content)
        await self._announce(content)
        _events.info("shared", link=manifest.link, files=len(manifest.files), bytes=manifest.length)
        return manifest.link

    async def files(self, link: Link) -> tuple[FileEntry, ...]:
        """The files of a content, by its manifest.

        Raises:
            LinkError: It is no link.
            NoSourceError: Nobody sent the manifest.
        """
        return (await self._manifest(infohash_of(link))).entries

    async def fetch(
        self,
        link: Link,
        *,
        to: Path | None = None,
        wanted: Mapping[str, Sequence[ByteRange]] | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Fetches a content, or only the pieces that hold the wanted ranges, and announces it.

        Args:
            link: Which content.
            to: The folder to put it in; by default one in this peer's own folder.
            wanted: Byte ranges by file path; None for everything. Only files that are named are created.
            progress: Called on each piece, in trio's thread.

        Returns:
            The folder (or the file) as it lies on the disk. Where only ranges were wanted the rest is a hole.

        Raises:
            LinkError: It is no link.
            NoSourceError: Nobody sends what is missing. What has arrived is kept, as it is with all errors below.
            ManifestError: Everybody sends a wrong manifest.
            UnsafePathError: The content would write outside its folder.
            DiskFullError: There is no room.
            ContentError: A wanted file is not in the content, or something else lies where it should go.
        """
        infohash = infohash_of(link)
        async with self._locks[infohash]:
            self._fetching += 1
            try:
                manifest = await self._manifest(infohash)
                pieces = manifest.pieces_of(wanted)
                files = manifest.files if wanted is None else tuple(manifest.file(path) for path in wanted)
                content = await self._place(manifest, files, pieces, to, whole=wanted is None)
                content.fetches += 1
                try:
                    await self._keeper.touch(content)
                    await self._complete(content, files, pieces, progress)
                    if content.store.held.complete:
                        await self._run_sync(content.store.settle)
                    return await self._deliver(content.store, files, pieces, to, whole=wanted is None)
                finally:
                    content.fetches -= 1
                    content.target_bytes = 0
            finally:
                self._fetching -= 1

    # -- more than the interface -------------------------------------------------------------------------------------

    async def read_torrent(self, path: Path) -> Link:
        """The link of a ``.torrent`` file, whose manifest is kept: to fetch by the link only pieces have to be found.

        Raises:
            ManifestError: It is no ``.torrent`` file, or none of BitTorrent version 2.
            UnsafePathError: The content would write outside its folder.
            ContentError: It cannot be read.
        """
        manifest = (await self._run_sync(partial(torrent_file.read_torrent, path))).manifest
        self._keep(manifest)
        return manifest.link

    async def write_torrent(self, link: Link, path: Path, *, trackers: Sequence[str] = ()) -> None:
        """Writes a ``.torrent`` file that every client of BitTorrent version 2 reads.

        Args:
            link: Which content.
            path: The file, which is replaced if there is one.
            trackers: URLs at which clients are to announce themselves.

        Raises:
            NoSourceError: The content is not here, and nobody sent its manifest.
            ContentError: It cannot be written.
        """
        manifest = await self._manifest(infohash_of(link))
        await self._run_sync(partial(torrent_file.write_torrent, path, manifest, trackers))

    async def pin(self, link: Link, *, pinned: bool = True) -> None:
        """Says whether a content must stay when room is made for others.

        Raises:
            ContentError: It is not here.
        """
        await self._keeper.pin(await self._known(link), pinned=pinned)

    async def remove(self, link: Link) -> None:
        """Forgets a content and serves it no more. Its files go too where they lie in this peer's own folder.

        Raises:
            ContentError: It is not here, or is being fetched.
        """
        await self._keeper.remove(await self._known(link))

    async def _known(self, link: Link) -> Content:
        await self._load()
        content = self._contents.get(infohash_of(link))
        if content is None:
            raise ContentError(f"this peer has nothing of {link}", hint="Fetch it first.")
        return content

    async def sources(self, link: Link) -> tuple[PeerId, ...]:
        """The other peers that say they have the content, or some of it.

        Raises:
            LinkError: It is no link.
        """
        return await Sources(self._network, self._directory, infohash_of(link)).find()

    def statistics(self) -> SwarmStatistics:
        """What was moved, and what is going on."""
        contents = tuple(self._statistics_of(content) for content in self._contents)
        return SwarmStatistics(
            contents=contents,
            downloaded_bytes=sum(content.downloaded_bytes for content in contents),
            uploaded_bytes=sum(content.uploaded_bytes for content in contents),
            fetching=self._fetching,
            serving=sum(len(exchange) for exchange in self._exchanges.values()),
            banned=len({peer for content in self._contents for peer in content.banned}),
            stored_bytes=self._keeper.used_bytes,
            storage_quota=self._keeper.quota,
        )

    def _statistics_of(self, content: Content) -> ContentStatistics:
        exchange = self._exchanges.get(content.store.manifest.infohash)
        if exchange is None:
            return content.statistics()
        return content.statistics(peers=len(exchange), served=len(exchange.member.served))

    # -- fetching ----------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded:
                return
            for entry in await self._run_sync(self._catalogue.entries):
                self._contents.put(entry.store, pinned=entry.pinned, used_at=entry.used_at)
            self._loaded = True

    async def _manifest(self, infohash: bytes) -> Manifest:
        await self._load()
        content = self._contents.get(infohash)
        if content is not None:
            return content.store.manifest
        if infohash not in self._manifests:
            sources = Sources(self._network, self._directory, infohash)
            self._keep(await sources.manifest(self._run_sync))
        return self._manifests[infohash]

    def _keep(self, manifest: Manifest) -> None:
        self._manifests[manifest.infohash] = manifest
        if len(self._manifests) > KEPT_MANIFESTS:
            self._manifests.popitem(last=False)

    async def _place(
        self,
        manifest: Manifest,
        files: Sequence[ManifestFile],
        pieces: Sequence[int],
        to: Path | None,
        *,
        whole: bool,
    ) -> Content:
        """Where the content lies, or will lie. Files that the user shared are only read."""
        own = self._folder / manifest.infohash.hex()
        location = own if to is None else _absolute(to)
        content = self._contents.get(manifest.infohash)
        left = None
        if content is not None:
            store = content.store
            # Begun in a folder that the user has given up since, perhaps because its disk is full.
            moved = to is not None and store.location not in (location, own)
            if not (store.shared or moved) or await self._run_sync(partial(store.intact, pieces)):
                return content
            left = None if store.shared else store
        staged = whole and location != own
        add = partial(self._catalogue.add, manifest, location, now=self._clock(), staged=staged)
        content = self._contents.put(await self._run_sync(add))
        if left is not None:
            await self._run_sync(partial(carry_over, left, content.store, files, pieces))
        return content

    async def _complete(
        self, content: Content, files: Sequence[ManifestFile], pieces: Sequence[int], progress: Progress | None
    ) -> None:
        store = content.store
        if not store.shared:
            others = [other.store for other in self._contents]
            wanted = Bitfield(store.manifest.pieces, pieces)
            await self._run_sync(partial(duplicates.take_over, others, store, files, wanted))
            await self._run_sync(partial(store.prepare, files))
        missing = [piece for piece in pieces if piece not in store.held]
        lengths = {piece: store.manifest.piece(piece).length for piece in pieces}
        wanted_bytes = sum(lengths.values())
        had_bytes = wanted_bytes - sum(lengths[piece] for piece in missing)
        piece_map = PieceMap(pieces, store.held)
        if progress is not None:
            told = FetchProgress(had_bytes, wanted_bytes, 0, name=store.manifest.name, pieces=piece_map.to_bytes())
            progress(told)
        if missing:
            await self._keeper.make_room(content, wanted_bytes - had_bytes)
            self._random.shuffle(missing)
            await self._running.wait()
            fetch = Fetch(
                Sources(self._network, self._directory, store.manifest.infohash),
                self._exchange(content),
                Wish(missing, had_bytes=had_bytes, piece_map=piece_map, wait_for_room=self._limits.wait_for_room),
                run_sync=self._run_sync,
                begin=self._begin,
                announce=partial(self._announce_until_done, content),
                progress=progress,
            )
            await fetch.run()
            _events.info("fetched", link=store.manifest.link, bytes=wanted_bytes - had_bytes)
        await self._announce_quietly(content)

    async def _deliver(
        self,
        store: ContentStore,
        files: Sequence[ManifestFile],
        pieces: Sequence[int],
        to: Path | None,
        *,
        whole: bool,
    ) -> Path:
        if to is None or _absolute(to) == store.location:
            return store.path
        copy = ContentStore(store.manifest, _absolute(to), PieceLog(None), staged=whole)
        await self._run_sync(partial(copy.prepare, files))
        for piece in pieces:
            if piece not in copy.held:
                await self._run_sync(partial(copy_piece, store, copy, piece))
        if whole:
            await self._run_sync(copy.settle)
        return copy.path

    # -- serving -----------------------------------------------------------------------------------------------------

    async def _serve(self, channel: Channel) -> None:
        await self._load()
        hello = await receive_hello(channel)
        content = self._contents.get(hello.infohash)
        if content is None:
            raise NoSourceError(f"peer {self._network.peer_id} does not have the content {hello.infohash.hex()}")
        if hello.want_manifest:
            await send(channel, ManifestFollows(), content.store.manifest.encode())
            return
        await self._running.wait()
        await self._keeper.touch(content)
        await self._exchange(content).converse(channel, dialled=False)

    def _exchange(self, content: Content) -> Exchange:
        infohash = content.store.manifest.infohash
        if infohash not in self._exchanges:
            self._exchanges[infohash] = Exchange(
                self._network,
                content,
                run_sync=self._run_sync,
                limits=self._limits,
                chance=self._random,
                on_misbehaviour=self._on_misbehaviour,
            )
        return self._exchanges[infohash]

    def _is_given(self, content: Content) -> bool:
        exchange = self._exchanges.get(content.store.manifest.infohash)
        return exchange is not None and bool(exchange.member.served)

    async def _part_with(self, content: Content) -> None:
        exchange = self._exchanges.pop(content.store.manifest.infohash, None)
        if exchange is not None:
            exchange.close("this peer does not have the content any more")
        try:
            await self._directory.withdraw(directory_key(content.store.manifest.infohash))
        except HivemindError as error:
            _events.warning("withdraw_failed", link=content.store.manifest.link, error=error.message)

    def _begin(self, converse: Callable[[Channel], Awaitable[None]], channel: Channel) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(converse, channel)

    async def _announce(self, content: Content) -> None:
        value = encode_record(complete=content.store.held.complete)
        key = directory_key(content.store.manifest.infohash)
        await self._directory.publish(key, value, lifetime=CONTENT_LIFETIME)

    async def _announce_quietly(self, content: Content) -> bool:
        try:
            await self._announce(content)
        except HivemindError as error:
            _events.warning("announce_failed", link=content.store.manifest.link, error=error.message)
            return False
        return True

    async def _announce_until_done(self, content: Content) -> None:
        if not len(content.store.held) and content.store.manifest.pieces:
            return
        wait = FIRST_RETRY
        while not await self._announce_quietly(content):
            await trio.sleep(wait)
            wait = min(wait * 2, LONGEST_RETRY)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
