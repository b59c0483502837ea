"""Accounts and the ledger in SQLite. Every public method is one transaction: it happens whole or not at all.

The methods block and are called from threads (`service` does). Writing transactions begin IMMEDIATE, so two of them
never decide on the same balances; SQLite's write-ahead log lets readers go on meanwhile. Commits are synced to the
disk: what was answered survives a power cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DatabaseError

from hivemind_bootstrap import ledger, schema, settlement
from hivemind_bootstrap.ledger import Transfer
from hivemind_bootstrap.schema import accounts, balances, entries, holds, peers, receipts, transfers
from hivemind_bootstrap.settlement import HoldState
from hivemind_p2p.credits.receipts import Receipt
from hivemind_p2p.credits.vouchers import HOLD_GRACE, Hold, Voucher
from hivemind_p2p.errors import AccountExistsError, AccountRequiredError, ConfigurationError, VoucherError
from hivemind_p2p.types import PeerId

BUSY_TIMEOUT = 10
"""Seconds a connection waits for another's transaction."""

MOST_OPEN_HOLDS = 1000
"""Open holds of one peer: a bound on what it can make the bootstrap store."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account as it is stored."""

    account_id: int
    username: str
    password_hash: str


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A countersigned receipt: what it says, and the bytes that prove it."""

    receipt: Receipt
    signed: bytes


class Database:
    """The bootstrap's store.

    Args:
        path: The SQLite file; made on first use.

    Raises:
        ConfigurationError: The file is of another version, no database, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._engine = create_engine(
            f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT, "isolation_level": None}
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(write=True)
        try:
            self._set_up(path)
            path.chmod(0o600)
        except (DatabaseError, OSError) as error:
            self.close()
            reason = error.orig if isinstance(error, DatabaseError) else error
            raise ConfigurationError(
                f"the ledger {path} cannot be opened: {reason}",
                hint="Restore it from a backup, or name another folder with --data.",
            ) from error
        except ConfigurationError:
            self.close()
            raise

    def _set_up(self, path: Path) -> None:
        with self._writer.begin() as connection:
            version = connection.execute(text("PRAGMA user_version")).scalar_one()
            if version not in (0, schema.VERSION):
                raise ConfigurationError(
                    f"{path} has version {version}, this program writes version {schema.VERSION}",
                    hint="Run the version of hivemind-bootstrap that made it, or another --data folder.",
                )
            schema.metadata.create_all(connection)
            for trigger in schema.WRITTEN_ONCE:
                connection.execute(text(trigger))
            connection.execute(text(f"PRAGMA user_version = {schema.VERSION:d}"))

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state throughout."""
        with self._engine.begin() as connection:
            yield connection

    # -- accounts ----------------------------------------------------------------------------------------------------

    def account_named(self, username: str) -> Account | None:
        """The account with this username."""
        with self.reading() as connection:
            row = connection.execute(select(accounts).where(accounts.c.username == username)).one_or_none()
        return Account(row.id, row.username, row.password_hash) if row else None

    def account_of(self, peer: PeerId) -> Account:
        """The account that a peer is linked to.

        Raises:
            AccountRequiredError: It is linked to none.
        """
        with self.reading() as connection:
            return _account_of(connection, peer)

    def register(self, username: str, password_hash: str, peer: PeerId, welcome: int, now: float) -> Account:
        """Makes an account, gives it the welcome credits and links the peer to it.

        Raises:
            AccountExistsError: The username is taken.
        """
        with self._writer.begin() as connection:
            if connection.execute(select(accounts.c.id).where(accounts.c.username == username)).first():
                raise AccountExistsError(f"the username {username!r} is taken")
            row = {"username": username, "password_hash": password_hash, "created_at": now}
            account_id = _new_id(connection.execute(insert(accounts).values(row)))
            _open_balance(connection, ledger.account_name(account_id), account_id)
            _open_balance(connection, ledger.WELCOME, None)
            if welcome > 0:
                _post(connection, ledger.welcome(account_id, welcome), now)
            _link(connection, peer, account_id, now)
        return Account(account_id, username, password_hash)

    def link(self, peer: PeerId, account_id: int, now: float) -> None:
        """Links a peer to an account, and to no other."""
        with self._writer.begin() as connection:
            _link(connection, peer, account_id, now)

    # -- holds and settlement ----------------------------------------------------------------------------------------

    def make_hold(self, hold: Hold, now: float) -> Hold:
        """Sets credits aside; asked again with the same id, gives back the same hold.

        Raises:
            AccountRequiredError: The payer is linked to no account.
            InsufficientCreditsError: The account does not cover it.
            VoucherError: The id is another's, the amount is none, or the payer has too many holds.
        """
        with self._writer.begin() as connection:
            existing = _hold_state(connection, hold.hold_id)
            if existing is not None:
                return _same_hold(existing, hold)
            account = _account_of(connection, hold.payer)
            _release_ended(connection, now, payer=hold.payer)
            if _open_holds(connection, hold.payer) >= MOST_OPEN_HOLDS:
                raise VoucherError(f"{hold.payer} has {MOST_OPEN_HOLDS} open holds already")
            available = _balance(connection, ledger.account_name(account.account_id))
            transfer = ledger.hold(account.account_id, hold.hold_id, hold.amount, available)
            _open_balance(connection, ledger.held_name(hold.hold_id), account.account_id)
            connection.execute(insert(holds).values(_hold_row(hold, account.account_id)))
            _post(connection, transfer, now)
        return hold

    def settle(self, voucher: Voucher, proofs: Sequence[SignedReceipt], now: float) -> int:
        """Pays what a voucher adds to what is settled; the same voucher again pays nothing.

        Args:
            voucher: Its signature already checked.
            proofs: Receipts for the work, their signatures already checked.
            now: Seconds since the epoch.

        Returns:
            What is settled of the hold in all.

        Raises:
            VoucherError: The voucher is worth nothing: see `settlement.due`.
            AccountRequiredError: The payee is linked to no account yet.
        """
        with self._writer.begin() as connection:
            state = _known_hold(connection, voucher.hold_id)
            owed = settlement.due(state, voucher, now)
            new = _new_receipts(connection, state.hold, proofs)
            transfer_id = None
            if owed:
                payee = _account_of(connection, state.hold.payee)
                what = settlement.what_for([proof.receipt for proof in new])
                transfer_id = _post(connection, ledger.settle(state.hold.hold_id, payee.account_id, owed, what), now)
                settled = state.settled + owed
                connection.execute(update(holds).where(holds.c.id == voucher.hold_id).values(settled=settled))
            rows = [_receipt_row(proof, state.hold.hold_id, transfer_id) for proof in new]
            if rows:
                connection.execute(insert(receipts), rows)
        return state.settled + owed

    def close_hold(self, hold_id: str, asked_by: PeerId, now: float) -> int:
        """Ends a hold early, by its payee, and returns what went back to the payer.

        Raises:
            VoucherError: There is no such hold, or it is another's.
        """
        with self._writer.begin() as connection:
            state = _known_hold(connection, hold_id)
            settlement.check_close(state, asked_by)
            return 0 if state.closed else _release(connection, state, now)

    def release_ended(self, now: float) -> int:
        """Gives back the rest of the holds that have ended; returns how many."""
        with self._writer.begin() as connection:
            return _release_ended(connection, now)


# -- one statement each, inside somebody's transaction ---------------------------------------------------------------


def _configure(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _new_id(result: Any) -> int:
    return int(result.inserted_primary_key[0])


def _account_of(connection: Connection, peer: PeerId) -> Account:
    query = select(accounts).join(peers, peers.c.account_id == accounts.c.id).where(peers.c.peer_id == peer)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise AccountRequiredError(f"the peer {peer} is not linked to an account")
    return Account(row.id, row.username, row.password_hash)


def _link(connection: Connection, peer: PeerId, account_id: int, now: float) -> None:
    row = {"account_id": account_id, "linked_at": now}
    statement = upsert(peers).values(peer_id=peer, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["peer_id"], set_=row))


def _open_balance(connection: Connection, name: str, owner: int | None) -> None:
    connection.execute(upsert(balances).values(name=name, owner=owner, amount=0).on_conflict_do_nothing())


def _balance(connection: Connection, name: str) -> int:
    return int(connection.execute(select(balances.c.amount).where(balances.c.name == name)).scalar_one())


def _post(connection: Connection, transfer: Transfer, now: float) -> int:
    """Writes a transfer and moves the balances: the only place where either is written."""
    names = [entry.account for entry in transfer.entries]
    rows = connection.execute(select(balances).where(balances.c.name.in_(names))).all()
    owners = {row.name: row.owner for row in rows}
    after = ledger.apply({row.name: row.amount for row in rows}, transfer)
    for name, amount in after.items():
        connection.execute(update(balances).where(balances.c.name == name).values(amount=amount))
    row = {"kind": str(transfer.kind), "what": transfer.what, "made_at": now}
    transfer_id = _new_id(connection.execute(insert(transfers).values(row)))
    written = [
        {"transfer_id": transfer_id, "name": entry.account, "owner": owners[entry.account], "amount": entry.amount}
        for entry in transfer.entries
    ]
    connection.execute(insert(entries), written)
    return transfer_id


def _state(row: Any) -> HoldState:
    hold = Hold(row.id, PeerId(row.payer), PeerId(row.payee), row.amount, row.expires_at)
    return HoldState(hold, row.account_id, row.settled, row.closed_at is not None)


def _hold_state(connection: Connection, hold_id: str) -> HoldState | None:
    row = connection.execute(select(holds).where(holds.c.id == hold_id)).one_or_none()
    return _state(row) if row else None


def _known_hold(connection: Connection, hold_id: str) -> HoldState:
    state = _hold_state(connection, hold_id)
    if state is None:
        raise VoucherError(f"there is no hold {hold_id}")
    return state


def _same_hold(state: HoldState, wanted: Hold) -> Hold:
    made = state.hold
    if (made.payer, made.payee, made.amount) != (wanted.payer, wanted.payee, wanted.amount):
        raise VoucherError(f"the hold {wanted.hold_id} exists and is another one")
    return made


def _open_holds(connection: Connection, payer: PeerId) -> int:
    query = select(func.count()).select_from(holds).where(holds.c.payer == payer, holds.c.closed_at.is_(None))
    return int(connection.execute(query).scalar_one())


def _hold_row(hold: Hold, account_id: int) -> dict[str, Any]:
    return {
        "id": hold.hold_id,
        "account_id": account_id,
        "payer": hold.payer,
        "payee": hold.payee,
        "amount": hold.amount,
        "settled": 0,
        "expires_at": hold.expires_at,
    }


def _release(connection: Connection, state: HoldState, now: float) -> int:
    if state.rest:
        _post(connection, ledger.release(state.hold.hold_id, state.account_id, state.rest), now)
    connection.execute(update(holds).where(holds.c.id == state.hold.hold_id).values(closed_at=now))
    return state.rest


def _release_ended(connection: Connection, now: float, *, payer: PeerId | None = None) -> int:
    query = select(holds).where(holds.c.closed_at.is_(None), holds.c.expires_at <= now - HOLD_GRACE)
    if payer is not None:
        query = query.where(holds.c.payer == payer)
    ended = [_state(row) for row in connection.execute(query).all()]
    for state in ended:
        if settlement.can_release(state, now):
            _release(connection, state, now)
    return len(ended)


def _new_receipts(connection: Connection, hold: Hold, proofs: Sequence[SignedReceipt]) -> list[SignedReceipt]:
    fitting = settlement.matching(hold, [proof.receipt for proof in proofs])
    by_id = {proof.receipt.receipt_id: proof for proof in proofs if proof.receipt in fitting}
    query = select(receipts.c.receipt_id).where(receipts.c.worker == hold.payee, receipts.c.receipt_id.in_(list(by_id)))
    for known in connection.execute(query).scalars():
        del by_id[known]
    return list(by_id.values())


def _receipt_row(proof: SignedReceipt, hold_id: str, transfer_id: int | None) -> dict[str, Any]:
    receipt = proof.receipt
    return {
        "worker": receipt.worker,
        "receipt_id": receipt.receipt_id,
        "hold_id": hold_id,
        "transfer_id": transfer_id,
        "work_id": receipt.work_id,
        "amount": receipt.amount,
        "what": receipt.what,
        "finished_at": receipt.finished_at,
        "signed": proof.signed,
    }
