"""The small Protocols through which the parts meet.

A service never imports its sibling: `peer.py` hands it an object that keeps one of these promises. Tests hand in
a small fake. Every method that asks another peer has a deadline of its own and raises the errors of `errors.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from trio_typing import TaskStatus as StubTaskStatus

    from hivemind_p2p.types import (
        ByteRange,
        Credits,
        FetchProgress,
        FileEntry,
        Link,
        Offer,
        Outcome,
        PeerId,
        PeerInfo,
        Record,
        StageOffer,
        Work,
    )

MessageType = TypeVar("MessageType", bound="Message")

Buffer: TypeAlias = bytes | bytearray | memoryview
Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch. `time.time` in production, a fake in tests."""


TaskStatus: TypeAlias = "StubTaskStatus[None]"
"""What `nursery.start` hands to a service's `run`, which calls `started()` once the service is up.

mypy reads trio's types from the stub package that libp2p brings; `nursery.start` fits no other class than its own.
"""


@runtime_checkable
class ByteStream(Protocol):
    """One bidirectional stream to one peer, like trio's `HalfCloseableStream`, plus who is at the other end."""

    @property
    def remote(self) -> PeerId:
        """The authenticated peer at the other end."""

    @property
    def protocol(self) -> str:
        """The protocol that both sides agreed on, for example ``/hivemind/dht/1``."""

    async def send_all(self, data: Buffer) -> None:
        """Sends everything; waits while the other side does not read."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, or ``b""`` once the other side has sent its end."""

    async def send_parts(self, parts: Sequence[Buffer]) -> None:
        """Sends several buffers as if they were one, without putting them together first."""

    async def receive_into(self, place: memoryview) -> int:
        """Puts some bytes where they are to lie; their number, or 0 once the other side has sent its end."""

    async def send_eof(self) -> None:
        """Says that nothing more will be sent; receiving goes on."""

    async def aclose(self) -> None:
        """Closes both directions. Never fails, never waits long."""


StreamHandler: TypeAlias = Callable[[ByteStream], Awaitable[None]]


class Transport(Protocol):
    """Dials peers and accepts streams: libp2p in production, `net.memory` in tests and simulations."""

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be dialled: multiaddrs without ``/p2p/...``."""

    def learn(self, peer: PeerInfo) -> None:
        """Remembers where a peer can be dialled."""

    def round_trip(self, peer: PeerId) -> float | None:
        """Seconds to a connected peer and back; None if that was not measured."""

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Calls `handler` in a task of its own for each stream that a peer opens under `protocol`."""

    async def open_stream(self, peer: PeerId, protocol: str) -> ByteStream:
        """Opens a stream, dialling the peer first where there is no connection.

        Raises:
            PeerUnreachableError: None of its addresses answered, or none is known.
        """


class Channel(Protocol):
    """Framed messages over one stream: a protobuf header and raw bytes behind it."""

    @property
    def remote(self) -> PeerId:
        """The authenticated peer at the other end."""

    async def send(self, header: Message, payload: Buffer | Sequence[Buffer] = b"") -> None:
        """Sends one frame, whole or not at all. Safe to call from several tasks."""

    async def receive(
        self, kind: type[MessageType], *, max_payload: int = 0, room: Callable[[int], memoryview] | None = None
    ) -> tuple[MessageType, memoryview]:
        """The next frame. One task receives at a time. `room` gives memory for a payload of so many bytes.

        Raises:
            StreamClosedError: The other side ended the stream.
            ProtocolError: The frame is malformed or larger than allowed.
            HivemindError: The other side sent an error frame: the class that it names.
        """

    async def send_eof(self) -> None:
        """Says that nothing more will be sent."""

    def rest(self, resting: bool) -> None:
        """Says whether nobody waits on this channel, so that it may break unnoticed for some seconds."""

    async def aclose(self) -> None:
        """Closes the stream both ways."""


ChannelHandler: TypeAlias = Callable[[Channel], Awaitable[None]]


class Network(Protocol):
    """What services see of the network: channels to peers by id, and one handler a protocol. `net.router` is it."""

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be dialled."""

    def learn(self, peer: PeerInfo) -> None:
        """Remembers where a peer can be dialled."""

    def round_trip(self, peer: PeerId) -> float | None:
        """Seconds to a connected peer and back; None if that was not measured."""

    def serve(self, protocol: str, handler: ChannelHandler, *, most_at_once: int = 256) -> None:
        """Answers a protocol. A handler that raises has its error sent to the caller; the peer lives on."""

    async def open(self, peer: PeerId, protocol: str, *, deadline: float = 10.0) -> Channel:
        """A channel to a peer.

        Raises:
            PeerUnreachableError: None of its addresses answered.
            DeadlineExceededError: It did not answer within `deadline` seconds.
        """

    def serve_stream(self, protocol: str, handler: StreamHandler, *, most_at_once: int = 256) -> None:
        """Answers a protocol that frames its messages itself: those of others, mostly. One that is busy closes."""

    async def open_stream(self, peer: PeerId, protocol: str, *, deadline: float = 10.0) -> ByteStream:
        """A bare stream to a peer; raises what `open` does."""


class Directory(Protocol):
    """Signed, expiring records under keys, each signer holding one record a key. `dht.service` is it."""

    async def publish(self, key: str, value: bytes, *, lifetime: float) -> None:
        """Stores this peer's record and keeps it alive (republished until withdrawn)."""

    async def withdraw(self, key: str) -> None:
        """Stops republishing and replaces the record by an empty, soon expiring one."""

    async def lookup(self, key: str) -> tuple[Record, ...]:
        """Everybody's current records under a key; empty if there are none."""

    async def find_peer(self, peer: PeerId) -> PeerInfo:
        """Where a peer can be dialled.

        Raises:
            PeerUnreachableError: Nobody knows it.
        """


Progress: TypeAlias = Callable[["FetchProgress"], None]


class Content(Protocol):
    """Contents by link. `bt.service` is it."""

    async def share(self, path: Path) -> Link:
        """Hashes a file or folder in place, announces it and serves it from where it lies."""

    async def files(self, link: Link) -> tuple[FileEntry, ...]:
        """The files of a content, by its manifest."""

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
            to: The folder to put it in; by default one in the peer's own data folder.
            wanted: Byte ranges by file path; None for everything.
            progress: Called on each piece.

        Returns:
            The folder (or the file) as it lies on the disk. Where only ranges were wanted the rest is a hole.
        """

    async def has(self, link: Link) -> bool:
        """Whether this peer has a content already, or some of it."""

    async def remove(self, link: Link) -> None:
        """Forgets a content and serves it no more. Its files go too where they were fetched."""


class OfferBook(Protocol):
    """The offers of the hive, cached, and this peer's own. `offers.py` is it."""

    async def offers(self, *, fresh: bool = False) -> tuple[Offer, ...]:
        """The current offers of others and of this peer; asked anew where `fresh` or the cache is old."""

    async def set_stages(
        self, stages: Sequence[StageOffer], *, weight_bytes_free: int = 0, weight_bytes_per_second: int = 0
    ) -> None:
        """Replaces the stages in this peer's own offer, and what it could host besides, and publishes it."""


class AccountBook(Protocol):
    """Whose peers are. `credits.client` is it."""

    async def accounts_of(self, peers: Sequence[PeerId]) -> Mapping[PeerId, str]:
        """The names of their accounts, without peers that are linked to none.

        Raises:
            BootstrapUnreachableError: Nobody is there to say.
        """


class Reputation(Protocol):
    """What accounts of the hive have complained of. `credits.client` is it."""

    async def complaints_about(self, peers: Sequence[PeerId]) -> Mapping[PeerId, int]:
        """How many accounts have complained lately of each peer's account; without those of which none has.

        Raises:
            BootstrapUnreachableError: Nobody is there to say.
        """

    async def complain(self, peer: PeerId, task_id: str) -> None:
        """Tells that a peer was outvoted about a task.

        Raises:
            HivemindError: It is not taken, or nobody is there to take it.
        """


class WorkListener(Protocol):
    """Is told what becomes of work. Must not raise, and not wait."""

    def started(self, work: Work) -> None:
        """It runs, and not just for a moment."""

    def printed(self, work: Work, data: bytes) -> None:
        """What it printed, if it was to be told."""

    def ended(self, work: Work, outcome: Outcome) -> None:
        """It has ended, or could not be started."""


class Executor(Protocol):
    """Runs work on this machine, behind the sandbox. `worker.executor` is it."""

    @property
    def running(self) -> int:
        """Tasks that run now."""

    def submit(self, work: Work, listener: WorkListener) -> None:
        """Puts work in the line; `go_on` starts it."""

    def go_on(self) -> None:
        """Starts what can be started, after one or many `submit`."""

    def withdraw(self, work: Work) -> bool:
        """Takes work out that has not begun; False if it has. Its listener is told nothing more. `go_on` afterwards."""

    def cancel(self, work: Work) -> None:
        """Takes work out, killing it if it runs. Its listener is told nothing more."""

    def belongs(self, caller: PeerId, account: str) -> None:
        """Says whose a caller is, empty for nobody's: accounts share what is lent."""

    def seconds(self, work: Work) -> float | None:
        """How long such work takes; None while that is not known."""

    async def run(self, work: Work) -> Outcome:
        """Runs to the end. Cancelling the call kills the work.

        Raises:
            TaskRefusedError: It does not fit on this machine now.
        """


class Payer(Protocol):
    """The caller's purse. `credits.client` is it. What is passed on is opaque to the services that pass it."""

    async def authorise(self, payee: PeerId, limit: Credits) -> bytes:
        """A payment that lets `payee` start work of up to `limit`: a hold made for it, and the voucher so far.

        Raises:
            InsufficientCreditsError: The account does not cover it.
            AccountRequiredError: This peer has no account.
        """

    def release(self, payee: PeerId, limit: Credits) -> None:
        """Says that work which was authorised will not be billed: it failed, was refused, or was given up."""

    async def pay(
        self, payee: PeerId, receipt: bytes, *, work_id: str, limit: Credits, most: Credits | None = None
    ) -> tuple[Credits, bytes]:
        """Checks a receipt and pays it.

        Args:
            payee: Who sent it.
            receipt: The bill.
            work_id: What it has to be for.
            limit: What was authorised.
            most: The most that is paid, where that is less.

        Returns:
            What it cost, and the payment (countersigned receipt and a voucher that covers it).

        Raises:
            VoucherError: The receipt is forged, is for other work, or is above the limit.
        """


class Earner(Protocol):
    """The worker's till. `credits.client` is it."""

    async def admit(self, payer: PeerId, payment: bytes, *, limit: Credits) -> None:
        """Checks that work of up to `limit` will be paid.

        Raises:
            PaymentRequiredError: No hold covers it, or too much is unpaid.
            VoucherError: The hold or voucher is forged or expired.
        """

    def dismiss(self, payer: PeerId, *, limit: Credits) -> None:
        """Says that admitted work will not be billed: it was refused later, was given up, or cannot be charged for."""

    async def bill(
        self, payer: PeerId, *, work_id: str, amount: Credits, what: str, limit: Credits | None = None
    ) -> bytes:
        """A signed receipt for work done; `limit` is what it was admitted with, if that is known."""

    async def collect(self, payer: PeerId, payment: bytes) -> None:
        """Takes a payment; the best voucher is handed to the bootstrap soon after.

        Raises:
            VoucherError: It does not cover the bill.
        """
