"""What stays on the disk and what goes: room for a fetch, pins, and the contents that are removed."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.catalogue import Catalogue
from hivemind_p2p.bt.concurrency import RunSync
from hivemind_p2p.bt.contents import Content, Contents
from hivemind_p2p.bt.quota import Kept, to_drop
from hivemind_p2p.errors import ContentError
from hivemind_p2p.interfaces import Clock

_events = telemetry.source("swarm")


class Keeper:
    """Keeps the peer's own folder within its quota.

    Args:
        folder: This peer's folder for contents.
        contents: What lies there, and what the user shares from elsewhere.
        catalogue: Remembers them.
        quota: Bytes that contents in the folder may take; 0 for as many as there are.
        clock: Seconds since the epoch.
        run_sync: Runs what blocks.
        is_given: Whether some of a content is being given to others now.
        part_with: Ends all that goes on about a content, and tells the directory that it is gone.
    """

    def __init__(
        self,
        folder: Path,
        contents: Contents,
        catalogue: Catalogue,
        *,
        quota: int,
        clock: Clock,
        run_sync: RunSync,
        is_given: Callable[[Content], bool],
        part_with: Callable[[Content], Awaitable[None]],
    ) -> None:
        self.quota = quota
        self._folder = folder
        self._contents = contents
        self._catalogue = catalogue
        self._clock = clock
        self._run_sync = run_sync
        self._is_given = is_given
        self._part_with = part_with
        self._lock = trio.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes that contents in this peer's own folder take, with what is being fetched."""
        return sum(_size(content) for content in self._contents if self._is_own(content))

    def _is_own(self, content: Content) -> bool:
        return content.store.location == self._folder / content.store.manifest.infohash.hex()

    async def make_room(self, content: Content, more: int) -> None:
        """Drops what was not used for longest, and sets room aside for `more` bytes of a content.

        Raises:
            QuotaError: There would not be enough.
        """
        async with self._lock:
            if self._is_own(content):
                wanted = content.store.manifest.infohash
                own = [each for each in self._contents if self._is_own(each)]
                await self._run_sync(partial(self._read_pins, own))
                kept = [self._kept(each) for each in own]
                for infohash in to_drop(kept, wanted=wanted, more=more, quota=self.quota, now=self._clock()):
                    found = self._contents.get(infohash)
                    assert found is not None
                    _events.info("dropped", link=found.store.manifest.link, bytes=found.store.held_bytes)
                    await self._remove(found)
            content.target_bytes = content.store.held_bytes + more

    def _read_pins(self, contents: Sequence[Content]) -> None:
        # `hivemind-peer swarm pin` may have written them while this peer runs.
        for content in contents:
            content.pinned = self._catalogue.is_pinned(content.store.manifest.infohash)

    def _kept(self, content: Content) -> Kept:
        return Kept(
            content.store.manifest.infohash,
            _size(content),
            content.used_at,
            pinned=content.pinned,
            in_use=content.in_use or self._is_given(content),
        )

    async def touch(self, content: Content) -> None:
        """Somebody uses a content now."""
        content.used_at = self._clock()
        await self._run_sync(partial(self._catalogue.used, content.store.manifest.infohash, content.used_at))

    async def pin(self, content: Content, *, pinned: bool) -> None:
        """Says whether a content must stay."""
        await self._run_sync(partial(self._catalogue.pin, content.store.manifest.infohash, pinned=pinned))
        content.pinned = pinned

    async def remove(self, content: Content) -> None:
        """Forgets a content, and removes its files where they lie in this peer's own folder.

        Raises:
            ContentError: It is being fetched.
        """
        if content.in_use:
            raise ContentError(
                f"{content.store.manifest.name!r} is being fetched or read", hint="Wait until that is over, or end it."
            )
        async with self._lock:
            await self._remove(content)

    async def _remove(self, content: Content) -> None:
        infohash = content.store.manifest.infohash
        self._contents.remove(infohash)
        await self._part_with(content)
        await self._run_sync(partial(remove_content, self._folder, self._catalogue, infohash))


def remove_content(folder: Path, catalogue: Catalogue, infohash: bytes) -> None:
    """Forgets a content and removes what lies of it in a peer's own folder. Blocks: run in a thread."""
    catalogue.remove(infohash)
    shutil.rmtree(folder / infohash.hex(), ignore_errors=True)


def _size(content: Content) -> int:
    return max(content.store.held_bytes, content.target_bytes)
