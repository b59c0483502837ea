"""What a peer gives to the others in the swarm of one content: whom it serves, what each has asked for, what is shown.

One half of `member.py`, pure like it; the other half, what the peer takes, is `download.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.choker import ROUND, Candidate, Choker
from hivemind_p2p.bt.super_seeding import SuperSeeding
from hivemind_p2p.bt.wire import MOST_BLOCKS, Block
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.types import PeerId


@dataclass(slots=True)
class Served:
    """Somebody who is, or might be, given something.

    Attributes:
        held: What it says that it holds.
        wanted: What it says that it wants; None for nothing.
        asked: Blocks that it asked for and that nobody works on yet.
    """

    held: Bitfield
    wanted: Bitfield | None = None
    asked: deque[Block] = field(default_factory=deque)
    gave: float = 0.0
    took: float = 0.0
    spread: float = 0.0
    gave_now: int = 0
    took_now: int = 0
    spread_now: int = 0
    rounds: int = 0


class Giving:
    """Decides whom to serve and what to show.

    Args:
        held: What this peer holds now.
        choker: Decides who is served.
        super_seeding: How the pieces go out while this peer is the only source; None if it is not.
        now: The time.
    """

    def __init__(
        self, held: Callable[[], Bitfield], choker: Choker, super_seeding: SuperSeeding | None, now: float
    ) -> None:
        self.peers: dict[PeerId, Served] = {}
        self.super_seeding = super_seeding
        self._held = held
        self._choker = choker
        self._round_at = now
        self._given: dict[int, PeerId] = {}

    @property
    def served(self) -> frozenset[PeerId]:
        """Who may ask for blocks now."""
        return self._choker.served

    def joined(self, peer: PeerId, held: Bitfield) -> None:
        """Somebody came and said what it holds."""
        self.peers[peer] = Served(held.copy())
        if self.super_seeding is not None:
            self.super_seeding.joined(peer, held)

    def left(self, peer: PeerId) -> None:
        """Somebody went."""
        self.peers.pop(peer, None)
        self._choker.left(peer)
        if self.super_seeding is not None:
            self.super_seeding.left(peer)

    def has(self, peer: PeerId, pieces: Iterable[int]) -> None:
        """Somebody got more pieces; who gave it those that this peer had given away has spread them."""
        state = self.peers[peer]
        new = [piece for piece in pieces if 0 <= piece < state.held.length and state.held.add(piece)]
        for piece in new:
            giver = self._given.get(piece)
            if giver in self.peers and giver != peer:
                self.peers[giver].spread_now += 1
        if self.super_seeding is not None:
            self.super_seeding.has(peer, new)

    def lost(self, peer: PeerId, pieces: Iterable[int]) -> None:
        """Somebody does not hold pieces any more."""
        for piece in pieces:
            self.peers[peer].held.discard(piece)
            if self.super_seeding is not None:
                self.super_seeding.lost(peer, piece)

    def wants(self, peer: PeerId, wanted: Bitfield | None) -> None:
        """Somebody says what it wants; None for nothing."""
        self.peers[peer].wanted = wanted
        if wanted is None:
            self._choker.left(peer)
        if self.super_seeding is not None:
            self.super_seeding.wants(peer, wanted)

    def useful(self, state: Served) -> bool:
        """Whether somebody wants something that is here."""
        return state.wanted is not None and self._held().offers(state.wanted, state.held)

    def stop_super_seeding(self) -> None:
        """Somebody else has everything."""
        self.super_seeding = None

    # -- blocks ------------------------------------------------------------------------------------------------------

    def request(self, peer: PeerId, blocks: Sequence[Block]) -> list[Block]:
        """Somebody asks for blocks.

        Returns:
            Those that are refused: it is choked, or the piece is not here.

        Raises:
            ProtocolError: There is no such piece, or it asked for more than anybody may.
        """
        state, held = self.peers[peer], self._held()
        refused: list[Block] = []
        for block in blocks:
            if block.piece >= held.length:
                raise ProtocolError(f"peer {peer} asked for piece {block.piece} of {held.length}")
            if peer not in self.served or block.piece not in held:
                refused.append(block)
                continue
            if len(state.asked) >= MOST_BLOCKS:
                raise ProtocolError(f"peer {peer} asked for more than {MOST_BLOCKS} blocks at once")
            state.asked.append(block)
        return refused

    def cancel(self, peer: PeerId, blocks: Iterable[Block]) -> None:
        """Somebody takes requests back."""
        gone = set(blocks)
        state = self.peers[peer]
        state.asked = deque(block for block in state.asked if block not in gone)

    def next_answers(self, peer: PeerId, most_bytes: int) -> list[Block]:
        """Blocks to send to somebody now: one at least if any was asked for, and no more than `most_bytes` if not."""
        state = self.peers.get(peer)
        blocks: list[Block] = []
        size = 0
        while state is not None and state.asked and (not blocks or size + state.asked[0].length <= most_bytes):
            blocks.append(state.asked.popleft())
            size += blocks[-1].length
        return blocks

    def given(self, peer: PeerId, piece: int, length: int) -> None:
        """A block was sent."""
        state = self.peers.get(peer)
        if state is not None:
            state.took_now += length
            self._given[piece] = peer

    def gave(self, peer: PeerId, length: int) -> None:
        """A block came from somebody: it is worth serving."""
        state = self.peers.get(peer)
        if state is not None:
            state.gave_now += length

    # -- slots -------------------------------------------------------------------------------------------------------

    def fill_slots(self) -> list[PeerId]:
        """Who is served from now on because a slot was free."""
        waiting = [peer for peer in self.peers if peer not in self.served]
        if len(self.served) >= self._choker.slots or not waiting:
            return []
        return [peer for peer in waiting if self.useful(self.peers[peer]) and self._choker.newcomer(peer)]

    def round(
        self, now: float, snubs: Callable[[PeerId], bool]
    ) -> tuple[list[PeerId], list[tuple[PeerId, list[Block]]]]:
        """Where a round is over: who is served from now on, and who is not any more, with what it had asked for."""
        if now - self._round_at < ROUND:
            return [], []
        self._round_at = now
        before = self.served
        after = self._choker.round(
            [self._candidate(peer, state, snubs(peer)) for peer, state in self.peers.items()],
            seeding=self._held().complete,
        )
        choked: list[tuple[PeerId, list[Block]]] = []
        for peer in before - after:
            state = self.peers.get(peer)
            if state is not None:
                choked.append((peer, list(state.asked)))
                state.asked.clear()
        return sorted(after - before), choked

    def show(self, peer: PeerId, now: float) -> list[int]:
        """While super-seeding: the pieces that somebody is shown now."""
        if self.super_seeding is None or peer not in self.peers:
            return []
        return self.super_seeding.show(peer, now)

    def _candidate(self, peer: PeerId, state: Served, snubs: bool) -> Candidate:
        state.gave, state.gave_now = state.gave / 2 + state.gave_now, 0
        state.took, state.took_now = state.took / 2 + state.took_now, 0
        state.spread, state.spread_now = state.spread / 2 + state.spread_now, 0
        state.rounds += 1
        return Candidate(
            peer,
            interested=self.useful(state),
            gave=state.gave,
            spread=state.spread,
            took=state.took,
            snubs=snubs,
            rounds=state.rounds,
        )
