"""One peer's part in the swarm of one content, as a state machine: what the others say goes in, what to do comes out.

It joins the two halves, what this peer takes (`taking`) and what it gives (`giving`), with what members tell each
other of one another (`peer_exchange`). It knows neither network nor disk nor clock: `exchange.py` performs its actions
on channels and files, the simulations on a calendar of events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hivemind_p2p.bt.actions import Action, Answer, Dial, Leave, Send, Shape, Tell
from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.choker import SLOTS, Choker
from hivemind_p2p.bt.download import Download
from hivemind_p2p.bt.giving import Giving
from hivemind_p2p.bt.peer_exchange import PeerExchange
from hivemind_p2p.bt.super_seeding import SuperSeeding
from hivemind_p2p.bt.taking import Taking
from hivemind_p2p.bt.wire import (
    Block,
    Cancel,
    Choking,
    Have,
    Holding,
    Interest,
    Members,
    Message,
    Refusal,
    Request,
    decode_holding,
    decode_pieces,
    encode_holding,
)
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.types import PeerId, PeerInfo

UNWANTED = 60.0
"""Seconds for which a conversation goes on in which neither side wants anything."""

MOST_DIALLED = 32
"""Conversations up to which others are dialled: more bring no more speed, and each costs a channel."""


@dataclass(frozen=True, slots=True)
class Self:
    """What a member knows of its own peer.

    Attributes:
        peer_id: Who it is.
        held: What it holds now.
        addresses: Where it can be dialled now.
        below: Draws a random number below its argument.
    """

    peer_id: PeerId
    held: Callable[[], Bitfield]
    addresses: Callable[[], Sequence[str]]
    below: Callable[[int], int]


@dataclass(slots=True)
class _Remote:
    useful_at: float
    told_all: bool
    said_holding: bool = False


class Member:
    """One peer in the swarm of one content.

    Args:
        own: What it knows of its own peer.
        shape: Of the content.
        banned: Who is banned already, and why; added to.
        order: Every piece in a random order, if this peer is where the content comes from; nothing otherwise.
        slots: Peers served at a time.
        now: The time, on any clock that only moves forward. All later `now` are on the same one.
    """

    def __init__(
        self,
        own: Self,
        shape: Shape,
        *,
        banned: dict[PeerId, str] | None = None,
        order: Sequence[int] = (),
        slots: int = SLOTS,
        now: float,
    ) -> None:
        self.banned: dict[PeerId, str] = {} if banned is None else banned
        self.members = PeerExchange(own.peer_id)
        self._own = own
        self._shape = shape
        self._remotes: dict[PeerId, _Remote] = {}
        self._taking = Taking(shape, self.banned)
        super_seeding = SuperSeeding(order, piece_length=shape.piece_length) if order else None
        self._giving = Giving(own.held, Choker(slots=slots, below=own.below), super_seeding, now)

    @property
    def download(self) -> Download | None:
        """What this peer fetches, while it does."""
        return self._taking.download

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """With whom conversations go on."""
        return tuple(self._remotes)

    @property
    def served(self) -> frozenset[PeerId]:
        """Who may ask for blocks now."""
        return self._giving.served

    def holdings(self) -> dict[PeerId, int]:
        """How many pieces each of them says that it holds."""
        return {peer: len(held) for peer, held in self._taking.holdings().items()}

    # -- who is there ------------------------------------------------------------------------------------------------

    def joined(self, peer: PeerId, now: float) -> list[Action]:
        """A conversation began, whoever dialled."""
        if peer in self.banned:
            return [Leave(peer, "it is banned")]
        tell_all = self._giving.super_seeding is None
        self._remotes[peer] = _Remote(now, tell_all)
        held = self._own.held() if tell_all else Bitfield(self._shape.pieces)
        opening: list[Action] = [Send(peer, encode_holding(held, self._own.addresses()))]
        if self._taking.interest.interested:
            opening.append(Send(peer, self._taking.interest))
        return opening

    def left(self, peer: PeerId, now: float) -> list[Action]:
        """A conversation ended."""
        if self._remotes.pop(peer, None) is None:
            return []
        self.members.left(peer)
        self._giving.left(peer)
        return self._taking.left(peer, now) + self._serve_more()

    def tried(self, peer: PeerId, *, reached: bool) -> None:
        """How a `Dial` went."""
        self.members.tried(peer, reached=reached)

    # -- what this peer wants ----------------------------------------------------------------------------------------

    def want(
        self, missing: Sequence[int], *, patience: float, now: float, urgent: Sequence[int] = (), in_order: bool = False
    ) -> list[Action]:
        """Begins to fetch pieces; see `Download` for the arguments. `in_order` for one who reads meanwhile."""
        held = self._own.held()
        begun = self._taking.begin(missing, len(held), patience=patience, now=now, urgent=urgent, in_order=in_order)
        if not held.complete:
            self._giving.stop_super_seeding()
        # Some of what was here may be gone, otherwise it would not be wanted.
        anew: list[Action] = [Send(peer, encode_holding(held)) for peer in self._remotes]
        for remote in self._remotes.values():
            remote.told_all = True
        return [*anew, *self._say_interest(), *begun]

    def want_nothing(self) -> list[Action]:
        """The fetch is done or given up."""
        return [*self._taking.end(), *self._say_interest()]

    def hurry(self, pieces: Sequence[int], now: float) -> list[Action]:
        """Somebody reads along: these are wanted before all others from now on, in this order."""
        told = self._say_interest() if self._taking.read_along() else []
        return [*told, *self._taking.hurry(pieces, now)]

    def stored(self, pieces: Sequence[int], now: float) -> list[Action]:
        """Pieces were right and are on the disk; the others are told."""
        told = tuple(pieces)
        news: list[Action] = [Tell(peer, told) for peer, remote in self._remotes.items() if remote.told_all]
        return news + self._taking.stored(pieces, now) + self._serve_more()

    def corrupt(self, peer: PeerId, piece: int, now: float) -> list[Action]:
        """A piece from a peer did not match the hash tree."""
        return self._taking.corrupt(peer, piece, now)

    def _say_interest(self) -> list[Action]:
        return [Send(peer, self._taking.interest) for peer in self._remotes]

    # -- what the others say -----------------------------------------------------------------------------------------

    def heard(self, peer: PeerId, message: Message, now: float) -> list[Action]:
        """A peer sent a message that is no `Piece`; for those see `block_arrived`.

        Raises:
            ProtocolError: It breaks the rules.
        """
        remote = self._remotes.get(peer)
        if remote is None:
            return []
        if not remote.said_holding and not isinstance(message, Holding):
            raise ProtocolError(
                f"peer {peer} sent a {type(message).__name__} out of turn, before it said what it holds"
            )
        actions: list[Action] = []
        match message:
            case Have(pieces):
                actions = self._heard_have(peer, pieces, now)
            case Request(blocks):
                refused = self._giving.request(peer, blocks)
                actions += [Send(peer, Refusal(block)) for block in refused]
                actions += [Answer(peer)] if len(refused) < len(blocks) else []
            case Refusal(block):
                actions = self._taking.refused(peer, block, now)
            case Cancel(blocks):
                self._giving.cancel(peer, blocks)
            case _:
                actions = self._heard_rarely(peer, remote, message, now)
        return actions

    def _heard_rarely(self, peer: PeerId, remote: _Remote, message: Message, now: float) -> list[Action]:
        match message:
            case Holding():
                return self._heard_holding(peer, remote, message, now)
            case Interest():
                return self._heard_interest(peer, message, now)
            case Choking(choking):
                return self._taking.chokes(peer, choking, now)
            case Members(members):
                self.members.heard(peer, members)
                return self._dial_more()
            case _:
                raise ProtocolError(f"peer {peer} sent a {type(message).__name__} out of turn")

    def _heard_holding(self, peer: PeerId, remote: _Remote, message: Holding, now: float) -> list[Action]:
        held = decode_holding(message, self._shape.pieces)
        if remote.said_holding:
            return self._heard_holding_again(peer, held, now)
        remote.said_holding = True
        self.members.joined(PeerInfo(peer, message.addresses))
        self._giving.joined(peer, held)
        actions = self._show_all_if_not_alone(held)
        actions += self._taking.joined(peer, self._giving.peers[peer].held, now)
        return actions + self._tell(peer, now)

    def _heard_holding_again(self, peer: PeerId, held: Bitfield, now: float) -> list[Action]:
        before = self._giving.peers[peer].held
        lost = [piece for piece in before if piece not in held]
        new = [piece for piece in held if piece not in before]
        self._giving.lost(peer, lost)
        self._taking.lost(peer, lost)
        return self._heard_have(peer, new, now)

    def _heard_have(self, peer: PeerId, pieces: Sequence[int], now: float) -> list[Action]:
        self._giving.has(peer, pieces)
        actions = self._show_all_if_not_alone(self._giving.peers[peer].held) + self._show(peer, now)
        return actions + self._taking.has(peer, pieces, now)

    def _heard_interest(self, peer: PeerId, interest: Interest, now: float) -> list[Action]:
        wanted: Bitfield | None = None
        if interest.interested and interest.everything:
            wanted = Bitfield.full(self._shape.pieces)
        elif interest.interested:
            wanted = decode_pieces(interest.pieces, self._shape.pieces)
        was_served = peer in self.served
        self._giving.wants(peer, wanted)
        actions: list[Action] = [Send(peer, Choking(True))] if was_served and wanted is None else []
        if interest.in_order:
            actions += self._show_everything(peer)
        return actions + self._show(peer, now) + self._serve_more()

    def block_arrived(self, peer: PeerId, block: Block, now: float) -> tuple[bool, bool, list[Action]]:
        """A block came.

        Returns:
            Whether it is to be kept, whether the piece is complete with it, and what to do.
        """
        if peer not in self._remotes:
            return False, False, []
        kept, complete, actions = self._taking.block_arrived(peer, block, now)
        if kept:
            self._giving.gave(peer, block.length)
        return kept, complete, actions

    # -- what is given -----------------------------------------------------------------------------------------------

    def next_answers(self, peer: PeerId, most_bytes: int) -> list[Block]:
        """Blocks to read and send to a peer now."""
        return self._giving.next_answers(peer, most_bytes)

    def given(self, peer: PeerId, block: Block) -> None:
        """A block was sent."""
        self._giving.given(peer, block.piece, block.length)

    def lost(self, peer: PeerId, block: Block) -> list[Action]:
        """A block that was to be sent is not on the disk any more."""
        return [Send(peer, Refusal(block))] if peer in self._remotes else []

    def _serve_more(self) -> list[Action]:
        return [Send(peer, Choking(False)) for peer in self._giving.fill_slots()]

    def _show(self, peer: PeerId, now: float) -> list[Action]:
        if self._remotes[peer].told_all:
            return []
        pieces = self._giving.show(peer, now)
        return [Send(peer, Have(tuple(pieces)))] if pieces else []

    def _show_everything(self, peer: PeerId) -> list[Action]:
        if self._remotes[peer].told_all:
            return []
        self._remotes[peer].told_all = True
        return [Send(peer, encode_holding(self._own.held()))]

    def _show_all_if_not_alone(self, held: Bitfield) -> list[Action]:
        if self._giving.super_seeding is None or not held.complete:
            return []
        self._giving.stop_super_seeding()
        return [action for peer in self._remotes for action in self._show_everything(peer)]

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float, *, sources_are_to_blame: bool = True) -> list[Action]:
        """Time has passed. Called about once a second.

        Args:
            now: The time.
            sources_are_to_blame: False while this peer's own disk or limit keeps it from reading what was sent.
        """
        actions = self._taking.tick(now) if sources_are_to_blame else []
        served, choked = self._giving.round(now, self._taking.snubs)
        for peer, blocks in choked:
            actions.append(Send(peer, Choking(True)))
            actions += [Send(peer, Refusal(block)) for block in blocks]
        actions += [Send(peer, Choking(False)) for peer in served]
        for peer in self._giving.peers:
            actions += self._show(peer, now) + self._tell(peer, now)
        return actions + self._serve_more() + self._dial_more() + self._leave_the_unwanted(now)

    def _tell(self, peer: PeerId, now: float) -> list[Action]:
        members = self.members.tell(peer, now)
        return [] if members is None else [Send(peer, Members(members))]

    def _dial_more(self) -> list[Action]:
        actions: list[Action] = []
        while self.download is not None and len(self._remotes) + len(actions) < MOST_DIALLED:
            info = self.members.next_to_try()
            if info is None:
                break
            if info.peer_id not in self.banned:
                actions.append(Dial(info))
        return actions

    def _leave_the_unwanted(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for peer, remote in self._remotes.items():
            served = self._giving.peers.get(peer)
            if self.download is not None or (served is not None and served.wanted is not None):
                remote.useful_at = now
                continue
            both_done = served is not None and served.held.complete and self._own.held().complete
            if both_done or now - remote.useful_at >= UNWANTED:
                actions.append(Leave(peer, "neither side wants anything"))
        return actions
