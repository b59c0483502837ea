"""The account of this peer, as the bootstrap keeps it: register, log in, balance, statement."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from hivemind_p2p.credits.requests import ask
from hivemind_p2p.credits.wire import ACCOUNTS_PROTOCOL, CREDITS_PROTOCOL
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.interfaces import Network
from hivemind_p2p.proto import accounts_pb2, credits_pb2
from hivemind_p2p.types import NOTHING, Credits, PeerId

LOGIN_DEADLINE = 30.0
"""Seconds: the bootstrap hashes passwords slowly on purpose, and few at a time."""


OWNERS_SECONDS = 30.0
"""How long an answer about whose a peer is holds: accounts of peers change seldom."""

MOST_OWNERS = 500
"""Peers that one request asks about."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has, in millionths of a credit.

    Attributes:
        available: Can be spent.
        held: Set aside for workers; what they do not earn comes back.
    """

    available: Credits
    held: Credits


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One row of a statement.

    Attributes:
        time: Seconds since the epoch.
        what: The work, in a few words.
        amount: Millionths of a credit; below zero where it was spent.
        counterparty: The username at the other end, or ``hive``.
    """

    time: float
    what: str
    amount: Credits
    counterparty: str


@dataclass(frozen=True, slots=True)
class AccountTotal:
    """What one name owns in the ledger, in millionths of a credit; ``hive`` is where welcome credits come from.

    Attributes:
        name: The username.
        available: Free to be spent.
        held: Set aside for work under way.
        welcome: What it was given to begin with.
        earned: What settlements brought it.
        paid: What settlements took from its holds.
    """

    name: str
    available: Credits
    held: Credits
    welcome: Credits = NOTHING
    earned: Credits = NOTHING
    paid: Credits = NOTHING


@dataclass(frozen=True, slots=True)
class LedgerOverview:
    """The whole ledger.

    Attributes:
        totals: By account name.
        sum: Of all rows: zero, or the ledger is broken.
        transfers: How many there are.
    """

    totals: tuple[AccountTotal, ...]
    sum: Credits
    transfers: int


Answer = TypeVar("Answer")


class _Kept(Generic[Answer]):
    """Answers about peers, kept for a while."""

    def __init__(self, bootstrap: PeerId) -> None:
        self._bootstrap = bootstrap
        self._known: dict[PeerId, Answer] = {}
        self._since = -math.inf

    async def get(
        self, peers: Sequence[PeerId], ask_about: Callable[[Sequence[PeerId]], Awaitable[Sequence[Answer]]]
    ) -> dict[PeerId, Answer]:
        """The answers about some peers, which are asked for where they are not known."""
        now = trio.current_time()
        if now - self._since > OWNERS_SECONDS:
            self._known.clear()
            self._since = now
        unknown = [peer for peer in dict.fromkeys(peers) if peer not in self._known]
        for start in range(0, len(unknown), MOST_OWNERS):
            asked = unknown[start : start + MOST_OWNERS]
            answers = await ask_about(asked)
            if len(answers) != len(asked):
                raise ProtocolError(f"the bootstrap {self._bootstrap} answered about another number of peers")
            self._known.update(zip(asked, answers, strict=True))
        return {peer: self._known[peer] for peer in peers if peer in self._known}


class AccountClient:
    """Asks the bootstrap about accounts. Every method raises `BootstrapUnreachableError` where it is away."""

    def __init__(self, network: Network, bootstrap: PeerId) -> None:
        self._network = network
        self._bootstrap = bootstrap
        self._owners: _Kept[str] = _Kept(bootstrap)
        self._complaints: _Kept[int] = _Kept(bootstrap)

    async def register(self, username: str, password: str) -> str:
        """Makes an account and links this peer to it; returns the username as it is kept.

        Raises:
            AccountExistsError: The username is taken.
            AuthenticationError: The username or password is not of the right form, or registration is closed.
        """
        credentials = accounts_pb2.Credentials(username=username, password=password)
        return await self._account(accounts_pb2.AccountsRequest(register=credentials))

    async def login(self, username: str, password: str) -> str:
        """Links this peer to an account; returns the username as it is kept.

        Raises:
            AuthenticationError: Wrong password, or no such account.
            BusyError: Too many attempts.
        """
        credentials = accounts_pb2.Credentials(username=username, password=password)
        return await self._account(accounts_pb2.AccountsRequest(login=credentials))

    async def accounts_of(self, peers: Sequence[PeerId]) -> dict[PeerId, str]:
        """Whose peers are, as the bootstrap says: usernames, without those that are linked to no account.

        The answers are kept for `OWNERS_SECONDS`.
        """
        found = await self._owners.get(peers, self._ask_owners)
        return {peer: owner for peer, owner in found.items() if owner}

    async def _ask_owners(self, asked: Sequence[PeerId]) -> Sequence[str]:
        request = accounts_pb2.AccountsRequest(accounts_of=accounts_pb2.Peers(peers=asked))
        return (await self._ask(request)).usernames

    async def complaints_about(self, peers: Sequence[PeerId]) -> dict[PeerId, int]:
        """How many accounts have complained lately of each peer's account; without those of which none has.

        The answers are kept for `OWNERS_SECONDS`.
        """
        found = await self._complaints.get(peers, self._ask_complaints)
        return {peer: count for peer, count in found.items() if count}

    async def _ask_complaints(self, asked: Sequence[PeerId]) -> Sequence[int]:
        request = accounts_pb2.AccountsRequest(complaints_about=accounts_pb2.Peers(peers=asked))
        return (await self._ask(request)).complaints

    async def complain(self, peer: PeerId, task_id: str) -> None:
        """Tells that a peer was outvoted about a task.

        Raises:
            AccountRequiredError: One of the two is linked to no account.
            ProtocolError: Nothing was ever set aside for that peer.
            BusyError: This account has complained enough for a day.
        """
        complaint = accounts_pb2.Complaint(peer=peer, task_id=task_id)
        await self._ask(accounts_pb2.AccountsRequest(complain=complaint))

    async def _ask(self, request: accounts_pb2.AccountsRequest) -> accounts_pb2.AccountsAnswer:
        return await ask(self._network, self._bootstrap, ACCOUNTS_PROTOCOL, request, accounts_pb2.AccountsAnswer)

    async def balance(self) -> Balance:
        """What the account has.

        Raises:
            AccountRequiredError: This peer is not linked to an account.
        """
        answer = await self._credits(credits_pb2.CreditsRequest(balance=credits_pb2.BalanceRequest()))
        return Balance(Credits(answer.balance.available), Credits(answer.balance.held))

    async def statement(self, limit: int = 100) -> tuple[StatementRow, ...]:
        """The newest rows of the account, newest first; at most 1000.

        Raises:
            AccountRequiredError: This peer is not linked to an account.
        """
        request = credits_pb2.CreditsRequest(statement=credits_pb2.StatementRequest(limit=max(0, limit)))
        answer = await self._credits(request)
        return tuple(
            StatementRow(row.time, row.what, Credits(row.amount), row.counterparty) for row in answer.statement.rows
        )

    async def overview(self) -> LedgerOverview:
        """The totals of the hive and of this account, and the sum of all rows.

        Where the operator opens the ledger (``--open-ledger``), the totals of all accounts (the first thousand).

        Raises:
            AccountRequiredError: This peer is not linked to an account.
        """
        answer = await self._credits(credits_pb2.CreditsRequest(overview=credits_pb2.OverviewRequest()))
        totals = tuple(
            AccountTotal(
                total.name,
                Credits(total.available),
                Credits(total.held),
                Credits(total.welcome),
                Credits(total.earned),
                Credits(total.paid),
            )
            for total in answer.overview.totals
        )
        return LedgerOverview(totals, Credits(answer.overview.sum), answer.overview.transfers)

    async def _account(self, request: accounts_pb2.AccountsRequest) -> str:
        answer = await ask(
            self._network,
            self._bootstrap,
            ACCOUNTS_PROTOCOL,
            request,
            accounts_pb2.AccountsAnswer,
            deadline=LOGIN_DEADLINE,
        )
        return answer.username

    async def _credits(self, request: credits_pb2.CreditsRequest) -> credits_pb2.CreditsAnswer:
        return await ask(self._network, self._bootstrap, CREDITS_PROTOCOL, request, credits_pb2.CreditsAnswer)
