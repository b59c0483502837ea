"""Client mode: a text that its caller makes, and the rows of logits or hidden states that the stages make of it.

The caller feeds tokens at positions of its own choice. A position below what was fed takes the text back to there, so
whoever changes its mind (a draft that was wrong, a beam that goes on from another one's text) feeds what differs and no
more. When a stage is lost another route is taken and fed the text so far; the rows are the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt
import trio

from hivemind_p2p.errors import HivemindError, ProtocolError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.generation import Detours
from hivemind_p2p.sharding.intake import PREFILL_CHUNK
from hivemind_p2p.sharding.keeper import RouteKeeper
from hivemind_p2p.sharding.legs import Heard
from hivemind_p2p.sharding.routes import RouteLostError, Routes
from hivemind_p2p.types import Credits, PeerId

Array = npt.NDArray[np.float32]


class Rows:
    """One text over a route; made by `open_rows`. One call at a time."""

    def __init__(self, nursery: trio.Nursery, routes: Routes, ask_after: float, *, independent: bool) -> None:
        self._nursery = nursery
        self._keeper = RouteKeeper(routes, ask_after)
        self._mode = routes.mode
        self._independent = independent
        self._detours = Detours()
        self._ready = False
        self._text: list[int] = []

    @property
    def text(self) -> Sequence[int]:
        """The tokens that were fed."""
        return self._text

    @property
    def cost(self) -> Credits:
        """What was paid so far; complete once it was left."""
        return self._keeper.cost

    async def feed(self, position: int, tokens: Sequence[int], *, rows: int = 1) -> Array:
        """Adds tokens to the text.

        Args:
            position: Where the first one stands; below the text's length, the rest is forgotten.
            tokens: At least one.
            rows: How many of the last tokens' rows are wanted.

        Returns:
            Shape (rows, vocabulary) or (rows, hidden size), float32.

        Raises:
            ValueError: The position leaves a gap, or more rows are wanted than there are tokens.
            MissingLayersError: Layers have no host, and none came in time.
            GenerationError: It failed on one route after another.
        """
        return (await self._feed(position, tokens, rows))[0]

    async def states(self, position: int, tokens: Sequence[int], *, rows: int = 1) -> dict[int, Array]:
        """The same in the mode ``STATES``: hidden states by the number of layers that they are behind, and logits by 0.

        There are those of each stage's last layer; the last ones of all are behind the final norm.
        """
        if not tokens:
            raise ValueError("no tokens were given")
        found: list[dict[int, Array]] = []
        for start in range(0, len(tokens), PREFILL_CHUNK):
            part = tokens[start : start + PREFILL_CHUNK]
            # Each part is waited for: so no stage has to keep many rows for who asked for them.
            wanted = max(0, min(len(part), start + len(part) - (len(tokens) - rows)))
            found.append(await self._feed(position + start, part, wanted))
        # A route that was lost meanwhile may have been cut otherwise than the next one.
        same = set.intersection(*(set(part) for part in found if part))
        return {layer: np.concatenate([part[layer] for part in found if part]) for layer in same}

    async def _feed(self, position: int, tokens: Sequence[int], rows: int) -> dict[int, Array]:
        if not 0 <= position <= len(self._text) or not tokens or rows > len(tokens):
            raise ValueError(f"{rows} rows of {len(tokens)} tokens cannot be had at {position} of {len(self._text)}")
        while True:
            try:
                await self._prepare(position)
                found = await self._compute(position, tokens, rows)
            except _LostError as lost:
                error = self._keeper.note_loss(lost.peers, lost.error)
                self._detours.lost(lost.peers, error, trio.current_time())
                self._ready = False
                continue
            self._text[position:] = [] if self._independent else tokens
            return found

    async def _prepare(self, position: int) -> None:
        """Takes a route if there is none, and brings it to the position."""
        if self._ready:
            return
        before = self._text[:position]
        try:
            await self._keeper.take(self._nursery, self._detours.next(), self._avoid, before)
        except RouteLostError as lost:
            raise _LostError(lost.peers, lost.error) from lost
        self._ready = True
        route = self._keeper.route
        assert route is not None
        if route.reusable < len(before):
            await self._send(route.reusable, before[route.reusable :], 0)

    async def _compute(self, position: int, tokens: Sequence[int], rows: int) -> dict[int, Array]:
        await self._send(position, tokens, rows)
        self._keeper.worked()
        gathered = {layer: _Gathered(position + len(tokens) - rows, rows) for layer in self._layers()}
        while not all(each.complete for each in gathered.values()):
            heard = await self._keeper.hear(self._nursery)
            if heard is None:
                continue
            if heard.rows is None:
                raise _LostError([heard.blamed or heard.peer], heard.error)
            found, payload = heard.rows
            if found.layer not in gathered or self._layers().get(found.layer) != heard.index:
                error = ProtocolError(f"peer {heard.peer} sent rows of layer {found.layer}, which it does not have")
                raise _LostError([heard.peer], error)
            gathered[found.layer].take(heard, found, payload)
        return {layer: each.array for layer, each in gathered.items()}

    def _layers(self) -> dict[int, int]:
        """What comes, and from the stage of which number."""
        route = self._keeper.route
        assert route is not None
        last = len(route.legs) - 1
        if self._mode != pb.STATES:
            return {0: last}
        return {0: last} | {leg.hop.span.stop: index for index, leg in enumerate(route.legs)}

    async def _send(self, position: int, tokens: Sequence[int], rows: int) -> None:
        route = self._keeper.route
        assert route is not None
        try:
            await route.feed(position, tokens, rows=rows, whole=self._independent)
        except HivemindError as error:
            raise _LostError([route.legs[0].hop.peer], error) from error

    def _avoid(self) -> frozenset[PeerId]:
        return self._detours.avoid(trio.current_time())

    async def close(self) -> None:
        """Ends the route and pays it."""
        await self._keeper.leave()

    async def drop(self) -> None:
        """Ends the route, quickly."""
        await self._keeper.drop()


class _LostError(Exception):
    """The route was lost."""

    def __init__(self, peers: Collection[PeerId], error: HivemindError | None) -> None:
        super().__init__(str(error))
        self.peers = list(peers)
        self.error = error


class _Gathered:
    """The rows of one call, which come in several messages."""

    def __init__(self, position: int, count: int) -> None:
        self._position = position
        self._count = count
        self._parts: list[Array] = []
        self._have = 0

    @property
    def complete(self) -> bool:
        """Whether all have come."""
        return self._have == self._count

    @property
    def array(self) -> Array:
        """All of them."""
        return np.concatenate(self._parts) if self._parts else np.zeros((0, 0), np.float32)

    def take(self, heard: Heard, rows: pb.Rows, payload: memoryview) -> None:
        """Takes some in."""
        expected = self._position + self._have
        if len(payload) != 4 * rows.count * rows.width or not 1 <= rows.count <= self._count - self._have:
            error: HivemindError = ProtocolError(f"peer {heard.peer} sent {len(payload)} bytes for {rows.count} rows")
            raise _LostError([heard.peer], error)
        if rows.position != expected or (self._parts and self._parts[0].shape[1] != rows.width):
            error = ProtocolError(f"peer {heard.peer} sent rows from {rows.position} where {expected} was due")
            raise _LostError([heard.peer], error)
        self._parts.append(np.frombuffer(payload, "<f4").reshape(rows.count, rows.width).astype(np.float32, copy=False))
        self._have += rows.count


@asynccontextmanager
async def open_rows(routes: Routes, *, ask_after: float, independent: bool = False) -> AsyncIterator[Rows]:
    """A text in client mode, until the block is left.

    Args:
        routes: With terms of another mode than ``TOKENS``.
        ask_after: Seconds without rows after which the stages are asked how they are.
        independent: Whether every call is a text of its own, at position 0: for encoders.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        rows = Rows(nursery, routes, ask_after, independent=independent)
        try:
            yield rows
            await rows.close()
        except Exception as error:
            failure = error
        finally:
            await rows.drop()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


__all__ = ["Rows", "open_rows"]
