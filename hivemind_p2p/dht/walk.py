"""Walks a lookup: asks whom the state machine names, as many at once as it wants, until it is finished."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import trio

from hivemind_p2p.dht.lookup import Lookup
from hivemind_p2p.errors import HivemindError
from hivemind_p2p.types import PeerId, PeerInfo

SLOW_AFTER = 1.0
"""Seconds after which somebody else is asked meanwhile: ten times what a healthy peer far away takes."""

LOOKUP_DEADLINE = 15.0
"""Seconds for a whole lookup; whatever was found by then is the result."""

Ask: TypeAlias = Callable[[PeerInfo], Awaitable[Sequence[PeerInfo]]]
"""Asks a peer and returns the peers that it names."""


async def walk(
    lookup: Lookup, ask: Ask, slow_after: float = SLOW_AFTER, *, then: Callable[[], None] = lambda: None
) -> tuple[PeerId, ...]:
    """Brings a lookup to its end; who has not answered by then is left behind.

    Args:
        lookup: Says whom to ask.
        ask: Asks one peer; a `HivemindError` counts as a failure.
        slow_after: Seconds after which somebody else is asked meanwhile.
        then: Called whenever the lookup has taken an answer in.

    Returns:
        Who was left behind after so long that something must be wrong there, and not only a busy moment.
    """
    asked_at: dict[PeerId, float] = {}
    waited_for: dict[PeerId, float] = {}
    progress, news = trio.open_memory_channel[None](1)

    def tell() -> None:
        try:
            progress.send_nowait(None)
        except trio.WouldBlock:
            return  # a wake-up call is waiting already

    async def visit(info: PeerInfo) -> None:
        try:
            lookup.answered(info.peer_id, await ask(info))
            then()
        except HivemindError:
            lookup.failed(info.peer_id)
        waited_for.pop(info.peer_id, None)
        tell()

    async def watch() -> None:
        """Gives up the slow ones: one task for all, because a lookup asks many and hardly ever meets one."""
        while True:
            await trio.sleep_until(min(waited_for.values(), default=trio.current_time()) + slow_after)
            now = trio.current_time()
            for peer in [peer for peer, since in waited_for.items() if since + slow_after <= now]:
                del waited_for[peer]
                lookup.slow(peer)
            tell()

    with trio.move_on_after(LOOKUP_DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            while not lookup.finished:
                for info in lookup.next():
                    asked_at[info.peer_id] = waited_for[info.peer_id] = trio.current_time()
                    nursery.start_soon(visit, info)
                await news.receive()
            nursery.cancel_scope.cancel()
    latest = trio.current_time() - 0.99 * SLOW_AFTER  # not to a rounding error: a walk may end at this very moment
    return tuple(peer for peer in lookup.slow_peers() if asked_at[peer] <= latest)
