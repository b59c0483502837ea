"""Accounts over the network: "/hivemind/accounts/1".

Participants: a peer that wants an account, and this bootstrap. The transport has authenticated the peer's id.

Messages: `AccountsRequest` (register, log in, whose some peers are, what is complained of them, a complaint), answered
by `AccountsAnswer` or a failure; one each a channel.

Goals: a peer that knows the password is linked to the account, and its holds and earnings are the account's from then
on; guessing is slow, by peer and by name; hashing never holds up anything else.

Non-goals: sessions, tokens, changing a password. The link of peer and account is all that the other services need.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from hivemind_bootstrap import reputation
from hivemind_bootstrap.accounts import (
    ATTEMPTS_PER_NAME,
    ATTEMPTS_PER_PEER,
    LONGEST_PASSWORD,
    REGISTRATIONS,
    AttemptLimiter,
    PasswordKeeper,
    check_password,
    checked_username,
)
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.rows import Account
from hivemind_bootstrap.store import Store
from hivemind_p2p import telemetry
from hivemind_p2p.credits.wire import ACCOUNTS_PROTOCOL
from hivemind_p2p.defaults import REQUEST_DEADLINE, WELCOME_CREDITS
from hivemind_p2p.errors import AccountRequiredError, AuthenticationError, ProtocolError
from hivemind_p2p.interfaces import Channel, Clock, Network
from hivemind_p2p.proto import accounts_pb2
from hivemind_p2p.types import PeerId

HASHING_AT_ONCE = 2
"""Passwords hashed at a time: each takes 19 MiB and a core."""

MOST_AT_ONCE = 64
"""Conversations: more than that wait for hashing longer than anybody waits for an answer."""

MOST_PEERS = 1000
"""Peers whose accounts one request asks for."""

_events = telemetry.source("accounts")


@dataclass(frozen=True, slots=True)
class AccountsStatistics:
    """Counts since the start."""

    registered: int
    logged_in: int
    refused: int


class AccountsService:
    """Answers registrations and logins.

    Args:
        network: Where it is registered.
        store: The accounts.
        clock: Seconds since the epoch.
        passwords: Hashes them.
        welcome: Millionths of a credit that a new account is given.
        open_registration: Whether anybody may make an account.
    """

    def __init__(
        self,
        network: Network,
        store: Store,
        *,
        clock: Clock,
        passwords: PasswordKeeper,
        welcome: int = WELCOME_CREDITS,
        open_registration: bool = True,
    ) -> None:
        self._store = store
        self._clock = clock
        self._passwords = passwords
        self._welcome = welcome
        self._open_registration = open_registration
        self._attempts = AttemptLimiter()
        self._hashing = trio.CapacityLimiter(HASHING_AT_ONCE)
        self._registered = self._logged_in = self._refused = 0
        network.serve(ACCOUNTS_PROTOCOL, self._serve, most_at_once=MOST_AT_ONCE)

    def statistics(self) -> AccountsStatistics:
        """Counts since the start."""
        return AccountsStatistics(self._registered, self._logged_in, self._refused)

    async def _serve(self, channel: Channel) -> None:
        with trio.fail_after(REQUEST_DEADLINE):
            request, _ = await channel.receive(accounts_pb2.AccountsRequest)
        answer = await self._answer_to(channel.remote, request)
        with trio.fail_after(REQUEST_DEADLINE):
            await channel.send(answer)

    async def _answer_to(self, peer: PeerId, request: accounts_pb2.AccountsRequest) -> accounts_pb2.AccountsAnswer:
        match request.WhichOneof("request"):
            case "accounts_of":
                return accounts_pb2.AccountsAnswer(usernames=await self._owners(peer, request.accounts_of))
            case "complaints_about":
                return accounts_pb2.AccountsAnswer(complaints=await self._complaints(peer, request.complaints_about))
            case "complain":
                await self._complain(peer, request.complain)
                return accounts_pb2.AccountsAnswer()
            case _:
                return accounts_pb2.AccountsAnswer(username=await self._linked(peer, request))

    async def _complaints(self, peer: PeerId, asked: accounts_pb2.Peers) -> list[int]:
        names, now = _named(peer, asked), self._clock()
        return await self._store.read(lambda db: reputation.complaints_about(db, names, now))

    async def _complain(self, peer: PeerId, complaint: accounts_pb2.Complaint) -> None:
        now, worker = self._clock(), PeerId(complaint.peer)
        await self._store.write(lambda db: reputation.complain(db, peer, worker, complaint.task_id, now))
        _events.info("complaint", by=peer, about=worker, task=complaint.task_id)

    async def _owners(self, peer: PeerId, asked: accounts_pb2.Peers) -> list[str]:
        names = _named(peer, asked)
        return await self._store.read(lambda db: [_username_of(db, name) or "" for name in names])

    async def _linked(self, peer: PeerId, request: accounts_pb2.AccountsRequest) -> str:
        try:
            return (await self._answer(peer, request)).username
        except AuthenticationError:
            self._refused += 1
            raise

    async def _answer(self, peer: PeerId, request: accounts_pb2.AccountsRequest) -> Account:
        kind = request.WhichOneof("request")
        if kind == "register":
            return await self._register(peer, request.register)
        if kind == "login":
            return await self._log_in(peer, request.login)
        raise ProtocolError(f"peer {peer} sent an empty request on {ACCOUNTS_PROTOCOL}")

    async def _register(self, peer: PeerId, credentials: accounts_pb2.Credentials) -> Account:
        if not self._open_registration:
            raise AuthenticationError("this hive takes no new accounts", hint="Ask its operator for an account.")
        username = checked_username(credentials.username)
        check_password(credentials.password)
        self._attempts.check("registrations", REGISTRATIONS, self._clock())
        self._attempts.count("registrations", self._clock())
        hashed = await trio.to_thread.run_sync(self._passwords.hash, credentials.password, limiter=self._hashing)
        now = self._clock()
        account = await self._store.write(lambda db: db.register(username, hashed, peer, self._welcome, now))
        self._registered += 1
        _events.info("registered", peer=peer, username=username)
        return account

    async def _log_in(self, peer: PeerId, credentials: accounts_pb2.Credentials) -> Account:
        username = checked_username(credentials.username)
        by_peer, by_name = f"peer:{peer}", f"name:{username}"
        linked = await self._store.read(lambda db: _username_of(db, peer)) == username
        # Counted before the slow check, so that many attempts at the same time count as many.
        keys = [(by_peer, ATTEMPTS_PER_PEER)] + ([] if linked else [(by_name, ATTEMPTS_PER_NAME)])
        for key, most in keys:
            self._attempts.check(key, most, self._clock())
        for key, _ in keys:
            self._attempts.count(key, self._clock())
        account = await self._store.read(lambda db: db.account_named(username))
        if not await self._matches(account, credentials.password) or account is None:
            _events.warning("login_refused", peer=peer, username=username)
            raise AuthenticationError(f"wrong password for {username!r}, or no such account")
        self._attempts.forget(by_peer)
        if not linked:
            # Each short-lived program is a new peer: thirty of them a minute must not lock their own user out.
            self._attempts.take_back(by_name)
        now = self._clock()
        await self._store.write(lambda db: db.link(peer, account.account_id, now))
        self._logged_in += 1
        return account

    async def _matches(self, account: Account | None, password: str) -> bool:
        if len(password) > LONGEST_PASSWORD:
            return False
        stored = account.password_hash if account is not None else None
        return await trio.to_thread.run_sync(self._passwords.matches, stored, password, limiter=self._hashing)


def _named(peer: PeerId, asked: accounts_pb2.Peers) -> list[PeerId]:
    if len(asked.peers) > MOST_PEERS:
        raise ProtocolError(f"peer {peer} asked about {len(asked.peers)} peers, more than {MOST_PEERS}")
    return [PeerId(name) for name in asked.peers]


def _username_of(database: Database, peer: PeerId) -> str | None:
    try:
        return database.account_of(peer).username
    except AccountRequiredError:
        return None
