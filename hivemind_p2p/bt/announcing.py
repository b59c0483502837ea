"""Tells the directory what this peer has, and keeps trying where the directory does not answer."""

from __future__ import annotations

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.contents import Content
from hivemind_p2p.bt.wire import directory_key, encode_record
from hivemind_p2p.defaults import CONTENT_LIFETIME
from hivemind_p2p.errors import HivemindError
from hivemind_p2p.interfaces import Directory

FIRST_RETRY = 5.0
"""Seconds until an announcement that failed is tried again; doubled each time up to `LONGEST_RETRY`."""

LONGEST_RETRY = 60.0

_events = telemetry.source("swarm")


class Announcer:
    """Publishes and withdraws this peer's records as a source.

    Args:
        directory: Where they stand.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def announce(self, content: Content) -> None:
        """Says that this peer has a content, or some of it.

        Raises:
            DirectoryError: The directory did not take it.
        """
        value = encode_record(complete=content.store.held.complete)
        key = directory_key(content.store.manifest.infohash)
        await self._directory.publish(key, value, lifetime=CONTENT_LIFETIME)

    async def announce_quietly(self, content: Content) -> bool:
        """The same; whether it went well. A failure is an event."""
        try:
            await self.announce(content)
        except HivemindError as error:
            _events.warning("announce_failed", link=content.store.manifest.link, error=error.message)
            return False
        return True

    async def announce_until_done(self, content: Content) -> None:
        """The same, again and again until it goes well. A content of which nothing is here is not announced."""
        if not len(content.store.held) and content.store.manifest.pieces:
            return
        wait = FIRST_RETRY
        while not await self.announce_quietly(content):
            await trio.sleep(wait)
            wait = min(wait * 2, LONGEST_RETRY)

    async def withdraw(self, content: Content) -> None:
        """Says that it is here no more. A failure is an event: the record ends by itself soon."""
        try:
            await self._directory.withdraw(directory_key(content.store.manifest.infohash))
        except HivemindError as error:
            _events.warning("withdraw_failed", link=content.store.manifest.link, error=error.message)
