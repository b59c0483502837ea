"""What a hive tells people: peers, a balance, a statement; amounts in whole credits, text and HTML side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hivemind_p2p.types import CREDIT, Offer, PeerId, StageOffer


def in_credits(amount: int) -> Decimal:
    """Millionths of a credit as credits, exactly."""
    return Decimal(amount) / CREDIT


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One peer and what it lends."""

    peer_id: PeerId
    name: str
    addresses: tuple[str, ...]
    cpus: float
    memory_bytes: int
    task_types: tuple[str, ...]
    serves_models: bool
    stages: tuple[StageOffer, ...]
    is_me: bool
    complaints: int = 0

    @property
    def complaint(self) -> str:
        """For people; empty where nobody complains."""
        return f"  outvoted, say {self.complaints}" if self.complaints else ""


def peer_rows(offers: Iterable[Offer], me: PeerId, complaints: Mapping[PeerId, int] | None = None) -> list[PeerRow]:
    """The offers as rows, ordered by name; with how many accounts complain of each one's account."""
    rows = [
        PeerRow(
            peer_id=offer.peer.peer_id,
            name=offer.name or offer.peer.peer_id[-6:],
            addresses=offer.peer.addresses,
            cpus=offer.cpus,
            memory_bytes=offer.memory_bytes,
            task_types=offer.task_types,
            serves_models=offer.serves_models,
            stages=offer.stages,
            is_me=offer.peer.peer_id == me,
            complaints=(complaints or {}).get(offer.peer.peer_id, 0),
        )
        for offer in offers
    ]
    return sorted(rows, key=lambda row: (row.name, row.peer_id))


class PeerList(list[PeerRow]):
    """The peers of a hive; a table in a notebook."""

    def __repr__(self) -> str:
        lines = [f"{len(self)} peer{'' if len(self) == 1 else 's'}"]
        lines += [
            f"  {row.name:<12} …{row.peer_id[-6:]}  {row.cpus:g} cpus  {row.memory_bytes / 2**30:.1f} GiB  "
            f"{stages_text(row.stages)}{row.complaint}".rstrip()
            for row in self
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import peers_html

        return peers_html(self)


def stages_text(stages: Sequence[StageOffer]) -> str:
    """Hosted layers in a few words, for example ``layers 0-1, 4-5 (loading)``."""
    if not stages:
        return ""
    return "layers " + ", ".join(f"{stage.span}{'' if stage.ready else ' (loading)'}" for stage in stages)


@dataclass(frozen=True, slots=True)
class ContentRow:
    """One content that lies here or is shared from here.

    Attributes:
        link: By which others fetch it.
        name: Of its file or folder.
        path: Where it lies.
        length: Bytes of all its files.
        held_bytes: Bytes of what is here.
        complete: Whether all of it is.
        shared: Whether these are the user's own files, served from where they lie.
        pinned: Whether it stays when room is made for others.
        state: In words: ``shared``, ``complete``, ``in part``, ``fetching`` or ``paused``.
        downloaded_bytes: Bytes taken from others since the start.
        uploaded_bytes: Bytes given to others since the start.
    """

    link: str
    name: str
    path: str
    length: int
    held_bytes: int
    complete: bool
    shared: bool
    pinned: bool
    state: str
    downloaded_bytes: int = 0
    uploaded_bytes: int = 0

    @classmethod
    def of(cls, content: Any) -> ContentRow:
        """From the figures of the swarm service."""
        complete = content.held_pieces == content.pieces
        states = {
            "paused": content.paused,
            "fetching": content.fetching,
            "shared": content.shared,
            "complete": complete,
        }
        return cls(
            link=content.link,
            name=content.name,
            path=content.path,
            length=content.length,
            held_bytes=content.held_bytes,
            complete=complete,
            shared=content.shared,
            pinned=content.pinned,
            state=next((state for state, holds in states.items() if holds), "in part"),
            downloaded_bytes=content.downloaded_bytes,
            uploaded_bytes=content.uploaded_bytes,
        )

    @property
    def here(self) -> str:
        """How much of it is here."""
        from hivemind_p2p.notebook.words import amount, part

        return amount(self.length) if self.complete else part(self.held_bytes, self.length)


class ContentList(list[ContentRow]):
    """The contents of a peer; a table in a notebook."""

    def __init__(self, rows: Iterable[ContentRow] = (), *, stored_bytes: int = 0, quota: int = 0) -> None:
        super().__init__(rows)
        self.stored_bytes = stored_bytes
        self.quota = quota

    @classmethod
    def of(cls, statistics: Any) -> ContentList:
        """From the figures of the swarm service."""
        rows = [ContentRow.of(content) for content in statistics.contents]
        return cls(rows, stored_bytes=statistics.stored_bytes, quota=statistics.storage_quota)

    @property
    def note(self) -> str:
        """How much room they take in this peer's own folder."""
        from hivemind_p2p.notebook.words import amount, counted

        of = f" of {amount(self.quota)}" if self.quota else ""
        return f"{counted(len(self), 'content')}, {amount(self.stored_bytes)}{of} in this peer's own folder"

    def __repr__(self) -> str:
        lines = [
            f"  {row.name:<24} {row.here:>18}  {row.state:<9} {'pinned' if row.pinned else '':<6}".rstrip()
            for row in self
        ]
        return "\n".join([self.note, *lines])

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import contents_html

        return contents_html(self)


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has, in credits.

    Attributes:
        available: Free to be spent.
        held: Set aside for work under way; what is not used comes back.
    """

    available: Decimal
    held: Decimal

    @classmethod
    def of(cls, balance: Any) -> Balance:
        """From the amounts that the bootstrap sent."""
        return cls(in_credits(balance.available), in_credits(balance.held))

    def __str__(self) -> str:
        return f"{self.available:.6f} credits available, {self.held:.6f} held"

    def __repr__(self) -> str:
        return f"<Balance: {self}>"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import balance_html

        return balance_html(self)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One account's totals in the ledger, in credits."""

    name: str
    welcome: Decimal
    earned: Decimal
    paid: Decimal
    balance: Decimal


class Ledger(list[LedgerRow]):
    """The totals that the bootstrap shows this account: its own, or everybody's where the operator opens the ledger.

    Attributes:
        sum: Of all rows of the ledger, also those that are not shown: zero, or the ledger is broken.
        transfers: How many transfers there are.
    """

    def __init__(self, rows: Iterable[LedgerRow] = (), total: Decimal = Decimal(0), transfers: int = 0) -> None:
        super().__init__(rows)
        self.sum = total
        self.transfers = transfers

    @classmethod
    def of(cls, overview: Any) -> Ledger:
        """From the totals that the bootstrap sent."""
        rows = [
            LedgerRow(
                name=total.name,
                welcome=in_credits(total.welcome),
                earned=in_credits(total.earned),
                paid=in_credits(total.paid),
                balance=in_credits(total.available + total.held),
            )
            for total in overview.totals
        ]
        return cls(rows, in_credits(overview.sum), overview.transfers)

    def __repr__(self) -> str:
        lines = [f"{'account':<16}{'earned':>14}{'paid':>14}{'balance':>18}"]
        lines += [f"{row.name:<16}{row.earned:>14.6f}{row.paid:>14.6f}{row.balance:>18.6f}" for row in self]
        return "\n".join([*lines, f"sum of all rows: {self.sum}"])

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import ledger_html

        return ledger_html(self)


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One row of the ledger that touches the account, in credits."""

    time: datetime
    what: str
    amount: Decimal
    counterparty: str


class Statement(list[StatementRow]):
    """The account's rows in the ledger, newest first; a table in a notebook."""

    @classmethod
    def of(cls, rows: Iterable[Any]) -> Statement:
        """From the rows that the bootstrap sent."""
        return cls(
            StatementRow(datetime.fromtimestamp(row.time, UTC), row.what, in_credits(row.amount), row.counterparty)
            for row in rows
        )

    def __repr__(self) -> str:
        lines = [
            f"{row.time:%Y-%m-%d %H:%M:%S}  {row.amount:>+14.6f}  {row.what}  {row.counterparty}".rstrip()
            for row in self
        ]
        return "\n".join(lines) or "no rows yet"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import statement_html

        return statement_html(self)
