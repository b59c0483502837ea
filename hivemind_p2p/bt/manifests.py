"""Manifests by info hash: of the contents that are here, of those that were asked for lately, else from a source."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from hivemind_p2p.bt.concurrency import RunSync
from hivemind_p2p.bt.contents import Contents
from hivemind_p2p.bt.metainfo import Manifest
from hivemind_p2p.bt.sources import Sources

KEPT_MANIFESTS = 32
"""Manifests of contents that are not here, kept so that `files` and the `fetch` after it ask once."""


class Manifests:
    """Finds manifests.

    Args:
        contents: What is here.
        sources: The sources of a content, by its info hash.
        run_sync: Runs what blocks.
    """

    def __init__(self, contents: Contents, sources: Callable[[bytes], Sources], run_sync: RunSync) -> None:
        self._contents = contents
        self._sources = sources
        self._run_sync = run_sync
        self._kept: OrderedDict[bytes, Manifest] = OrderedDict()

    async def get(self, infohash: bytes) -> Manifest:
        """The manifest of a content.

        Raises:
            NoSourceError: Nobody sent it.
            ManifestError: Everybody sent a wrong one.
        """
        content = self._contents.get(infohash)
        if content is not None:
            return content.store.manifest
        if infohash not in self._kept:
            self.keep(await self._sources(infohash).manifest(self._run_sync))
        return self._kept[infohash]

    def keep(self, manifest: Manifest) -> None:
        """Remembers a manifest that came from elsewhere."""
        self._kept[manifest.infohash] = manifest
        if len(self._kept) > KEPT_MANIFESTS:
            self._kept.popitem(last=False)
