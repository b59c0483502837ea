"""The swarm of one content as this peer takes part in it: performs what `member.py` decides, on channels and files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.bt.actions import Action, Answer, Ban, Dial, Finished, Leave, Send, Shape, Tell
from hivemind_p2p.bt.buffers import Buffers
from hivemind_p2p.bt.choker import SLOTS
from hivemind_p2p.bt.concurrency import RunSync, close
from hivemind_p2p.bt.contents import Content
from hivemind_p2p.bt.conversation import Conversation
from hivemind_p2p.bt.member import Member, Self
from hivemind_p2p.bt.rate_limit import TokenBucket
from hivemind_p2p.bt.wire import Block, Message, largest_payload
from hivemind_p2p.errors import BusyError, HivemindError
from hivemind_p2p.interfaces import Channel, Network
from hivemind_p2p.types import PeerId, PeerInfo

WAIT_FOR_ROOM = 600.0
"""Seconds for which a fetch waits on a full disk: enough for somebody who is told of it to make room."""

MOST_CONVERSATIONS = 128
"""Conversations about one content. The rest find each other through those that are let in."""

USUAL_PAYLOAD = 2 * 1024 * 1024
"""Bytes read from the disk in one go and sent in one message: enough that what a message costs does not count with the
smallest pieces, and few enough to stay in the processor's cache. A block that is longer goes alone."""

_events = telemetry.source("swarm")

OnMisbehaviour = Callable[[PeerId, str], None]
"""Told who did what, where it is beyond doubt: for reputation."""


@dataclass(slots=True)
class Limits:
    """What this peer allows itself, all contents together.

    Attributes:
        upload: Bytes a second of blocks that are sent.
        download: Bytes a second of blocks that are received.
        slots: Peers served at a time, for each content.
        conversations: Conversations that go on at a time, about each content.
        storage: Bytes that fetched contents may take in this peer's own folder; 0 for as many as there are. The least
            recently used go when there are more, but none that is pinned or in use.
        wait_for_room: Seconds for which a fetch waits on a full disk for room.
        helpers: Whether it may start processes that hash.
    """

    upload: TokenBucket = field(default_factory=TokenBucket)
    download: TokenBucket = field(default_factory=TokenBucket)
    slots: int = SLOTS
    conversations: int = MOST_CONVERSATIONS
    storage: int = 0
    wait_for_room: float = WAIT_FOR_ROOM
    helpers: bool = False


Pieces: TypeAlias = "Sequence[tuple[int, memoryview]]"
"""Numbers of pieces, and what is to be their bytes."""


class Sink(Protocol):
    """Where pieces go while a fetch is under way. `fetching.Fetch` is it."""

    failures: dict[PeerId, str]

    @property
    def behind(self) -> bool:
        """Whether pieces wait for this peer's disk."""

    async def take(self, peer: PeerId, pieces: Pieces, memory: memoryview) -> None:
        """Takes pieces that are to be checked and stored; waits where too many do already.

        Afterwards `memory`, in which they lie, goes back to the exchange's buffers.
        """

    def dial(self, info: PeerInfo) -> None:
        """Begins a conversation with somebody who was told of."""

    def finished(self) -> None:
        """Every wanted piece is stored."""


class Exchange:
    """One content's conversations.

    Args:
        network: Says who this peer is and where it can be dialled.
        content: What is exchanged.
        run_sync: Runs what blocks.
        limits: Shared with all other contents.
        chance: Draws orders and lots.
        on_misbehaviour: Told of peers that sent wrong bytes.
    """

    def __init__(
        self,
        network: Network,
        content: Content,
        *,
        run_sync: RunSync,
        limits: Limits,
        chance: random.Random,
        on_misbehaviour: OnMisbehaviour | None = None,
    ) -> None:
        manifest = content.store.manifest
        self.content = content
        self.sink: Sink | None = None
        self.largest_payload = largest_payload(manifest)
        self.piece_length = manifest.piece_length
        self._run_sync = run_sync
        self.buffers = Buffers(min(self.largest_payload, USUAL_PAYLOAD))
        self._me = network.peer_id
        self._limits = limits
        self._on_misbehaviour = on_misbehaviour
        self._conversations: dict[PeerId, Conversation] = {}
        self._throttled_until = 0.0
        order = list(range(manifest.pieces)) if content.store.shared and content.store.held.complete else []
        chance.shuffle(order)
        own = Self(
            network.peer_id,
            held=lambda: content.store.held,
            addresses=lambda: network.addresses,
            below=chance.randrange,
        )
        self.member = Member(
            own,
            Shape(manifest.pieces, manifest.piece_length, manifest.length_of),
            banned=content.banned,
            order=order,
            slots=limits.slots,
            now=trio.current_time(),
        )
        content.on_arrival = self._arrived

    def __len__(self) -> int:
        return len(self._conversations)

    def __contains__(self, peer: object) -> bool:
        return peer in self._conversations

    @property
    def may_have_helpers(self) -> bool:
        """Whether processes may be started that hash."""
        return self._limits.helpers

    @property
    def active(self) -> bool:
        """Whether anything goes on."""
        return bool(self._conversations) or self.sink is not None

    async def converse(self, channel: Channel, *, dialled: bool) -> None:
        """Takes part in a conversation to its end.

        Raises:
            HivemindError: The other side broke the rules or missed a deadline.
        """
        conversation = Conversation(channel, self._me if dialled else channel.remote, self)
        if not self._admit(conversation):
            return
        self._conversations[conversation.peer] = conversation
        try:
            self.perform(self.member.joined(conversation.peer, trio.current_time()))
            await conversation.run()
        finally:
            if self._conversations.get(conversation.peer) is conversation:
                self._end(conversation)

    async def converse_dialled(self, channel: Channel) -> None:
        """The same for a channel that this peer opened: a failure is noted, and the channel closed."""
        reason = "it ended the conversation"
        try:
            await self.converse(channel, dialled=True)
        except HivemindError as error:
            reason = error.message
            _events.debug("conversation_failed", peer=channel.remote, error=reason)
            self.note(channel.remote, reason)
        finally:
            await close(channel)

    def note(self, peer: PeerId, reason: str) -> None:
        """Remembers why a source was of no use, for whoever fetches."""
        if self.sink is not None:
            self.sink.failures[peer] = reason

    def _admit(self, new: Conversation) -> bool:
        """One conversation a pair: of two opened at the same time both sides keep that of the smaller peer id."""
        old = self._conversations.get(new.peer)
        if old is None:
            if len(self) >= self._limits.conversations:
                raise BusyError(f"{len(self)} conversations about this content go on already")
            return True
        if old.opener != new.opener and old.opener == min(self._me, new.peer):
            return False
        old.leave("it began another conversation")
        self._end(old)
        return True

    def _end(self, conversation: Conversation) -> None:
        del self._conversations[conversation.peer]
        if not self._conversations:
            self.buffers.clear()
        self.perform(self.member.left(conversation.peer, trio.current_time()))

    # -- performing --------------------------------------------------------------------------------------------------

    def perform(self, actions: Sequence[Action]) -> None:
        """Does what was decided."""
        for action in actions:
            match action:
                case Send(peer, message):
                    if peer in self._conversations:
                        self._conversations[peer].say(message)
                case Tell(peer, pieces):
                    if peer in self._conversations:
                        self._conversations[peer].tell(pieces)
                case Answer(peer):
                    if peer in self._conversations:
                        self._conversations[peer].answer()
                case _:
                    self._perform_rarely(action)

    def _perform_rarely(self, action: Action) -> None:
        match action:
            case Leave(peer, reason):
                self._leave(peer, reason)
            case Ban(peer, reason):
                _events.warning("source_banned", peer=peer, content=self.content.store.manifest.name, reason=reason)
                if self._on_misbehaviour is not None:
                    self._on_misbehaviour(peer, reason)
                self._leave(peer, reason)
            case Dial(info):
                if self.sink is not None:
                    self.sink.dial(info)
            case Finished():
                if self.sink is not None:
                    self.sink.finished()
            case _:
                raise AssertionError(action)

    def _arrived(self, pieces: Sequence[int]) -> None:
        self.perform(self.member.stored(pieces, trio.current_time()))

    def _leave(self, peer: PeerId, reason: str) -> None:
        self.note(peer, reason)
        if peer in self._conversations:
            self._conversations[peer].leave(reason)

    def hurry(self, pieces: Sequence[int]) -> None:
        """Somebody reads along: these are wanted before all others from now on, in this order."""
        self.perform(self.member.hurry(pieces, trio.current_time()))

    def close(self, reason: str) -> None:
        """Ends all conversations."""
        for conversation in tuple(self._conversations.values()):
            conversation.leave(reason)

    def tick(self) -> None:
        """Time has passed; called every second while anything goes on."""
        now = trio.current_time()
        behind = (self.sink is not None and self.sink.behind) or now < self._throttled_until
        self.perform(self.member.tick(now, sources_are_to_blame=not behind))

    # -- what conversations ask --------------------------------------------------------------------------------------

    def heard(self, peer: PeerId, message: Message) -> None:
        """A peer said something.

        Raises:
            ProtocolError: It breaks the rules.
        """
        self.perform(self.member.heard(peer, message, trio.current_time()))

    def block_arrived(self, peer: PeerId, block: Block) -> tuple[bool, bool]:
        """A block came: whether to keep it, and whether its piece is complete."""
        keep, complete, actions = self.member.block_arrived(peer, block, trio.current_time())
        self.perform(actions)
        return keep, complete

    async def take(self, peer: PeerId, pieces: Pieces, memory: memoryview) -> None:
        """Hands pieces on to be stored; waits where the disk, or the limit, has not caught up."""
        if self.sink is not None:
            await self.sink.take(peer, pieces, memory)
        wait = self._limits.download.take(sum(len(data) for _, data in pieces), trio.current_time())
        if wait > 0:
            self._throttled_until = trio.current_time() + wait
            await trio.sleep(wait)

    def next_answers(self, peer: PeerId) -> list[Block]:
        """Blocks to send to a peer now, in one message."""
        return self.member.next_answers(peer, USUAL_PAYLOAD)

    async def may_upload(self, length: int) -> None:
        """Waits until so many bytes may be sent."""
        wait = self._limits.upload.take(length, trio.current_time())
        if wait > 0:
            await trio.sleep(wait)

    async def read_blocks(self, blocks: Sequence[Block], memory: memoryview) -> list[Block]:
        """Reads blocks from the disk into `memory`, one behind the other; which of them are there."""
        store = self.content.store
        if store.read_now(blocks, memory):
            return list(blocks)
        return await self._run_sync(partial(store.read_into, blocks, memory))

    def given(self, peer: PeerId, block: Block) -> None:
        """A block was sent."""
        self.content.uploaded_bytes += block.length
        self.member.given(peer, block)

    def lost(self, peer: PeerId, block: Block) -> None:
        """A block that was to be sent is not on the disk any more."""
        self.perform(self.member.lost(peer, block))
