"""Accounts and the ledger in SQLite. Every public method is one transaction: it happens whole or not at all.

The methods block and are called from threads (`service` does). Writing transactions begin IMMEDIATE, so two of them
never decide on the same balances; SQLite's write-ahead log lets readers go on meanwhile. Commits are synced to the
disk: what was answered survives a power cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, insert, select, text, update
from sqlalchemy.exc import DatabaseError

from hivemind_bootstrap import ledger, rows, schema, settlement
from hivemind_bootstrap.rows import Account, SignedReceipt
from hivemind_bootstrap.schema import accounts, holds, receipts
from hivemind_p2p.credits.vouchers import Hold, Voucher
from hivemind_p2p.errors import AccountExistsError, ConfigurationError, VoucherError
from hivemind_p2p.types import PeerId

BUSY_TIMEOUT = 10
"""Seconds a connection waits for another's transaction."""

MOST_OPEN_HOLDS = 1000
"""Open holds of one peer: a bound on what it can make the bootstrap store."""


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

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, one at a time."""
        with self._writer.begin() as connection:
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
            return rows.account_of(connection, peer)

    def register(self, username: str, password_hash: str, peer: PeerId, welcome: int, now: float) -> Account:
        """Makes an account, gives it the welcome credits and links the peer to it.

        Raises:
            AccountExistsError: The username is taken.
        """
        with self._writer.begin() as connection:
            if connection.execute(select(accounts.c.id).where(accounts.c.username == username)).first():
                raise AccountExistsError(f"the username {username!r} is taken")
            row = {"username": username, "password_hash": password_hash, "created_at": now}
            account_id = rows.new_id(connection.execute(insert(accounts).values(row)))
            rows.open_balance(connection, ledger.account_name(account_id), account_id)
            rows.open_balance(connection, ledger.WELCOME, None)
            if welcome > 0:
                rows.post(connection, ledger.welcome(account_id, welcome), now)
            rows.link(connection, peer, account_id, now)
        return Account(account_id, username, password_hash)

    def link(self, peer: PeerId, account_id: int, now: float) -> None:
        """Links a peer to an account, and to no other."""
        with self._writer.begin() as connection:
            rows.link(connection, peer, account_id, now)

    # -- holds and settlement ----------------------------------------------------------------------------------------

    def make_hold(self, hold: Hold, now: float) -> Hold:
        """Sets credits aside; asked again with the same id, gives back the same hold.

        Raises:
            AccountRequiredError: The payer is linked to no account.
            InsufficientCreditsError: The account does not cover it.
            VoucherError: The id is another's, the amount is none, or the payer has too many holds.
        """
        with self._writer.begin() as connection:
            existing = rows.hold_state(connection, hold.hold_id)
            if existing is not None:
                return rows.same_hold(existing, hold)
            account = rows.account_of(connection, hold.payer)
            rows.release_ended(connection, now, payer=hold.payer)
            if rows.open_holds(connection, hold.payer) >= MOST_OPEN_HOLDS:
                raise VoucherError(f"{hold.payer} has {MOST_OPEN_HOLDS} open holds already")
            available = rows.balance(connection, ledger.account_name(account.account_id))
            transfer = ledger.hold(account.account_id, hold.hold_id, hold.amount, available)
            rows.open_balance(connection, ledger.held_name(hold.hold_id), account.account_id)
            connection.execute(insert(holds).values(rows.hold_row(hold, account.account_id)))
            rows.post(connection, transfer, now)
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
            state = rows.known_hold(connection, voucher.hold_id)
            owed = settlement.due(state, voucher, now)
            new = rows.new_receipts(connection, state.hold, proofs)
            transfer_id = None
            if owed:
                payee = rows.account_of(connection, state.hold.payee)
                what = settlement.what_for([proof.receipt for proof in new])
                transfer = ledger.settle(state.hold.hold_id, payee.account_id, owed, what)
                transfer_id = rows.post(connection, transfer, now)
                settled = state.settled + owed
                connection.execute(update(holds).where(holds.c.id == voucher.hold_id).values(settled=settled))
            if new:
                written = [rows.receipt_row(proof, state.hold.hold_id, transfer_id) for proof in new]
                connection.execute(insert(receipts), written)
        return state.settled + owed

    def close_hold(self, hold_id: str, asked_by: PeerId, now: float) -> int:
        """Ends a hold early, by its payee, and returns what went back to the payer.

        Raises:
            VoucherError: There is no such hold, or it is another's.
        """
        with self._writer.begin() as connection:
            state = rows.known_hold(connection, hold_id)
            settlement.check_close(state, asked_by)
            return 0 if state.closed else rows.release(connection, state, now)

    def release_ended(self, now: float) -> int:
        """Gives back the rest of the holds that have ended; returns how many."""
        with self._writer.begin() as connection:
            return rows.release_ended(connection, now)


def _configure(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
