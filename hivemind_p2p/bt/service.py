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

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt import duplicates, sharing, torrent_file
from hivemind_p2p.bt.announcing import Announcer
from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.catalogue import Catalogue
from hivemind_p2p.bt.concurrency import RunSync, in_thread
from hivemind_p2p.bt.contents import Content, Contents, ContentStatistics
from hivemind_p2p.bt.conversation import receive_hello, send
from hivemind_p2p.bt.exchange import Limits, OnMisbehaviour
from hivemind_p2p.bt.exchanges import Exchanges
from hivemind_p2p.bt.fetching import Fetch, Wish
from hivemind_p2p.bt.hash_book import HashBook
from hivemind_p2p.bt.keeping import Keeper
from hivemind_p2p.bt.link import infohash_of
from hivemind_p2p.bt.manifests import Manifests
from hivemind_p2p.bt.metainfo import Manifest
from hivemind_p2p.bt.piece_map import PieceMap
from hivemind_p2p.bt.placing import Places, absolute
from hivemind_p2p.bt.plan import Plan, Wanted, make_plan, take_turns
from hivemind_p2p.bt.reader import Reader
from hivemind_p2p.bt.sources import Sources
from hivemind_p2p.bt.wire import PROTOCOL, ManifestFollows
from hivemind_p2p.errors import ContentError, HivemindError, NoSourceError
from hivemind_p2p.interfaces import Channel, Clock, Directory, Network, Progress, TaskStatus
from hivemind_p2p.types import ByteRange, FetchProgress, FileEntry, Link, PeerId

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
        misbehaved: Times that a peer did what is beyond doubt wrong, such as sending wrong bytes.
        stored_bytes: Bytes that contents in this peer's own folder take, with what is being fetched.
        storage_quota: Bytes that they may take; 0 for as many as there are.
    """

    contents: tuple[ContentStatistics, ...]
    downloaded_bytes: int
    uploaded_bytes: int
    fetching: int
    serving: int
    banned: int
    misbehaved: int
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
        self._folder = absolute(folder)
        self._run_sync = run_sync
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - which piece comes first is no secret
        self._limits = limits or Limits()
        self._book = HashBook(self._folder / "hashes.sqlite3")
        self._catalogue = Catalogue(self._folder)
        self._contents = Contents()
        self._manifests = Manifests(self._contents, self._sources, run_sync)
        self._announcer = Announcer(directory)
        self._places = Places(self._folder, self._contents, self._catalogue, clock=clock, run_sync=run_sync)
        self._exchanges = Exchanges(
            network, run_sync=run_sync, limits=self._limits, chance=self._random, on_misbehaviour=on_misbehaviour
        )
        self._keeper = Keeper(
            self._folder,
            self._contents,
            self._catalogue,
            quota=self._limits.storage,
            clock=clock,
            run_sync=run_sync,
            is_given=self._exchanges.is_given,
            part_with=self._part_with,
        )
        self._loaded = False
        self._loading = trio.Lock()
        self._locks: defaultdict[bytes, trio.Lock] = defaultdict(trio.Lock)
        self._nursery: trio.Nursery | None = None
        self._fetching = 0
        network.serve(PROTOCOL, self._serve)

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Announces what this peer had before it was restarted, and keeps the conversations. Runs until cancelled."""
        await self._load()
        task_status.started()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for content in self._contents:
                nursery.start_soon(self._announcer.announce_until_done, content)
            await self._exchanges.run(nursery)

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
        manifest, stamps = await sharing.make_manifest(
            found, book=self._book, run_sync=self._run_sync, helpers=self._limits.helpers
        )
        async with self._locks[manifest.infohash]:
            content = self._contents.get(manifest.infohash)
            if content is None or not await self._run_sync(partial(content.store.intact, range(manifest.pieces))):
                add = partial(self._catalogue.add, manifest, found.location, now=self._clock(), shared=True)
                content = self._contents.put(await self._run_sync(partial(add, stamps=stamps)))
            await self._keeper.touch(content)
        await self._announcer.announce(content)
        _events.info("shared", link=manifest.link, files=len(manifest.files), bytes=manifest.length)
        return manifest.link

    async def files(self, link: Link) -> tuple[FileEntry, ...]:
        """The files of a content, by its manifest.

        Raises:
            LinkError: It is no link.
            NoSourceError: Nobody sent the manifest.
        """
        return (await self._manifest(link)).entries

    async def fetch(
        self,
        link: Link,
        *,
        to: Path | None = None,
        wanted: Wanted | None = None,
        first: Wanted | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Fetches a content, or only the pieces that hold the wanted ranges, and announces it.

        Args:
            link: Which content.
            to: The folder to put it in; by default one in this peer's own folder.
            wanted: Byte ranges by file path; None for everything. Only files that are named are created.
            first: Those of them that are fetched before all others, in this order.
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
        async with self._locks[infohash_of(link)]:
            manifest = await self._manifest(link)
            return await self._bring(make_plan(manifest, wanted=wanted, first=first, to=to), progress=progress)

    async def open(self, link: Link, path: str | None = None) -> Reader:
        """Begins to fetch a file, and reads it meanwhile: what is read next is fetched next.

        Args:
            link: Which content.
            path: Which of its files; not needed where there is only one.

        Raises:
            LinkError: It is no link.
            NoSourceError: Nobody sent the manifest.
            ContentError: The content has no such file.
        """
        manifest = await self._manifest(link)
        if path is None and len(manifest.files) > 1:
            raise ContentError(f"{manifest.name!r} has {len(manifest.files)} files", hint="Name one of them.")
        file = manifest.files[0] if path is None else manifest.file(path)
        await self._exchanges.running.wait()
        hurry = partial(self._hurry, manifest.infohash)
        reader = Reader(manifest, file, run_sync=self._run_sync, hurry=hurry)
        assert self._nursery is not None
        self._nursery.start_soon(self._read_along, reader, link)
        return reader

    # -- more than the interface -------------------------------------------------------------------------------------

    async def read_torrent(self, path: Path) -> Link:
        """The link of a ``.torrent`` file, whose manifest is kept: to fetch by the link only pieces have to be found.

        Raises:
            ManifestError: It is no ``.torrent`` file, or none of BitTorrent version 2.
            UnsafePathError: The content would write outside its folder.
            ContentError: It cannot be read.
        """
        manifest = (await self._run_sync(partial(torrent_file.read_torrent, path))).manifest
        self._manifests.keep(manifest)
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
        manifest = await self._manifest(link)
        await self._run_sync(partial(torrent_file.write_torrent, path, manifest, trackers))

    async def pin(self, link: Link, *, pinned: bool = True) -> None:
        """Says whether a content must stay when room is made for others.

        Raises:
            ContentError: It is not here.
        """
        await self._keeper.pin(await self._known(link), pinned=pinned)

    async def has(self, link: Link) -> bool:
        """Whether this peer has a content already, or some of it: shared, fetched, or being fetched.

        Raises:
            LinkError: It is no link.
        """
        await self._load()
        return self._contents.get(infohash_of(link)) is not None

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
        return await self._sources(infohash_of(link)).find()

    def statistics(self) -> SwarmStatistics:
        """What was moved, and what is going on."""
        contents = tuple(map(self._exchanges.statistics_of, self._contents))
        return SwarmStatistics(
            contents=contents,
            downloaded_bytes=sum(content.downloaded_bytes for content in contents),
            uploaded_bytes=sum(content.uploaded_bytes for content in contents),
            fetching=self._fetching,
            serving=self._exchanges.conversations,
            banned=len({peer for content in self._contents for peer in content.banned}),
            misbehaved=self._exchanges.misbehaved,
            stored_bytes=self._keeper.used_bytes,
            storage_quota=self._keeper.quota,
        )

    # -- fetching ----------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded:
                return
            for entry in await self._run_sync(self._catalogue.entries):
                self._contents.put(entry.store, pinned=entry.pinned, used_at=entry.used_at)
            self._loaded = True

    async def _manifest(self, link: Link) -> Manifest:
        await self._load()
        return await self._manifests.get(infohash_of(link))

    def _sources(self, infohash: bytes) -> Sources:
        return Sources(self._network, self._directory, infohash)

    async def _bring(self, plan: Plan, *, progress: Progress | None = None, reader: Reader | None = None) -> Path:
        """Fetches what is planned; one fetch of a content at a time."""
        self._fetching += 1
        try:
            content = await self._places.place(plan)
            content.fetches += 1
            try:
                await self._keeper.touch(content)
                await self._prepare(content, plan)
                if reader is not None:
                    reader.attached(content)
                await self._complete(content, plan, progress)
                if content.store.held.complete:
                    await self._run_sync(content.store.settle)
                return await self._places.deliver(content.store, plan)
            finally:
                content.fetches -= 1
                content.target_bytes = 0
        finally:
            self._fetching -= 1

    async def _prepare(self, content: Content, plan: Plan) -> None:
        store = content.store
        # Before files are taken over from other contents, too: they need room like all else.
        more = plan.length_of(piece for piece in plan.pieces if piece not in store.held)
        if more:
            await self._keeper.make_room(content, more)
        if store.shared:
            return
        others = [other.store for other in self._contents]
        wanted = Bitfield(store.manifest.pieces, plan.pieces)
        await self._run_sync(partial(duplicates.take_over, others, store, plan.files, wanted))
        await self._run_sync(partial(store.prepare, plan.files))

    async def _complete(self, content: Content, plan: Plan, progress: Progress | None) -> None:
        store = content.store
        missing = [piece for piece in plan.pieces if piece not in store.held]
        wanted_bytes = plan.length_of(plan.pieces)
        had_bytes = wanted_bytes - plan.length_of(missing)
        piece_map = PieceMap(plan.pieces, store.held)
        if progress is not None:
            told = FetchProgress(had_bytes, wanted_bytes, 0, name=store.manifest.name, pieces=piece_map.to_bytes())
            progress(told)
        if missing:
            self._random.shuffle(missing)
            await self._exchanges.running.wait()
            fetch = Fetch(
                self._sources(store.manifest.infohash),
                self._exchanges.of(content),
                Wish(
                    missing,
                    urgent=plan.urgent or take_turns(reader.ahead for reader in content.readers),
                    in_order=bool(plan.urgent or content.readers),
                    had_bytes=had_bytes,
                    piece_map=piece_map,
                    wait_for_room=self._limits.wait_for_room,
                ),
                run_sync=self._run_sync,
                begin=self._exchanges.begin,
                announce=partial(self._announcer.announce_until_done, content),
                progress=progress,
            )
            await fetch.run()
            _events.info("fetched", link=store.manifest.link, bytes=wanted_bytes - had_bytes)
        await self._announcer.announce_quietly(content)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read_along(self, reader: Reader, link: Link) -> None:
        """Fetches what is read, until the reader is closed. Where another fetch goes on, reads what that brings."""
        try:
            with reader.scope:
                known = self._contents.get(infohash_of(link))
                if known is not None:
                    reader.attached(known)
                    self._hurry(infohash_of(link))
                async with self._locks[infohash_of(link)]:
                    manifest = await self._manifest(link)
                    wanted = {reader.name: [ByteRange(0, reader.length)]}
                    await self._bring(make_plan(manifest, wanted=wanted, first=None, to=None), reader=reader)
                reader.fetched()
                await reader.closed()
        except HivemindError as error:
            reader.end(error)
        finally:
            reader.end(ContentError("this peer has ended", hint="Join the hive again, and open the file there."))

    def _hurry(self, infohash: bytes) -> None:
        content = self._contents.get(infohash)
        if content is not None:
            self._exchanges.of(content).hurry(take_turns(reader.ahead for reader in content.readers))

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
        await self._exchanges.running.wait()
        await self._keeper.touch(content)
        await self._exchanges.of(content).converse(channel, dialled=False)

    async def _part_with(self, content: Content) -> None:
        self._exchanges.end(content, "this peer does not have the content any more")
        await self._announcer.withdraw(content)
