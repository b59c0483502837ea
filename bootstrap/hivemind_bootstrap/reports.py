"""What is read from the ledger and never written: balances, statements, the overview of all accounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, func, or_, select, true

from hivemind_bootstrap.database import Database
from hivemind_bootstrap.ledger import Kind
from hivemind_bootstrap.schema import accounts, balances, entries, holds, peers, transfers
from hivemind_p2p.credits.accounts import AccountTotal, Balance, LedgerOverview, StatementRow
from hivemind_p2p.types import Credits

MOST_ROWS = 1000
"""Rows of one statement, and accounts of one overview."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is of everything."""

    accounts: int
    linked_peers: int
    transfers: int
    open_holds: int
    ledger_sum: int


def balance(database: Database, account_id: int) -> Balance:
    """What an account has."""
    with database.reading() as connection:
        row = connection.execute(_totals().where(balances.c.owner == account_id)).one()
    return Balance(Credits(int(row.available)), Credits(int(row.held)))


def statement(database: Database, account_id: int, limit: int) -> tuple[StatementRow, ...]:
    """An account's rows, newest first. What is only set aside, or given back, is not spent and not shown."""
    own = (
        select(entries.c.transfer_id, func.sum(entries.c.amount).label("amount"))
        .join(transfers, transfers.c.id == entries.c.transfer_id)
        .where(entries.c.owner == account_id, transfers.c.kind.in_([Kind.WELCOME, Kind.SETTLEMENT]))
        .group_by(entries.c.transfer_id)
        .order_by(entries.c.transfer_id.desc())
        .limit(max(0, min(limit, MOST_ROWS)))
        .subquery()
    )
    query = (
        select(own.c.transfer_id, own.c.amount, transfers.c.made_at, transfers.c.what)
        .join(transfers, transfers.c.id == own.c.transfer_id)
        .order_by(own.c.transfer_id.desc())
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
        others = _counterparties(connection, account_id, [row.transfer_id for row in rows])
    return tuple(
        StatementRow(row.made_at, row.what, Credits(int(row.amount)), others.get(row.transfer_id, "yourself"))
        for row in rows
    )


def _counterparties(connection: Connection, account_id: int, transfer_ids: list[int]) -> dict[int, str]:
    query = (
        select(entries.c.transfer_id, accounts.c.username)
        .outerjoin(accounts, accounts.c.id == entries.c.owner)
        .where(entries.c.transfer_id.in_(transfer_ids), entries.c.owner.is_distinct_from(account_id))
    )
    return {row.transfer_id: row.username or "hive" for row in connection.execute(query)}


def overview(database: Database, *, only: int | None = None) -> LedgerOverview:
    """The totals by account name, and the sum of all rows.

    Args:
        database: The ledger.
        only: The one account whose totals are shown beside the hive's; None for all.
    """
    query = (
        _totals(func.coalesce(accounts.c.username, "hive").label("name"), balances.c.owner)
        .outerjoin(accounts, accounts.c.id == balances.c.owner)
        .where(true() if only is None else or_(balances.c.owner == only, balances.c.owner.is_(None)))
        .group_by(balances.c.owner)
        .order_by(balances.c.owner)
        .limit(MOST_ROWS)
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
        moved = _moved(connection)
        total = _sum_of_all_rows(connection)
        count = connection.execute(select(func.count()).select_from(transfers)).scalar_one()
    totals = tuple(
        AccountTotal(row.name, Credits(int(row.available)), Credits(int(row.held)), *moved.get(row.owner, ()))
        for row in rows
    )
    return LedgerOverview(totals, Credits(total), int(count))


def _moved(connection: Connection) -> dict[int, tuple[Credits, Credits, Credits]]:
    """What each account was given, earned and paid, from the rows."""
    settled = transfers.c.kind == Kind.SETTLEMENT
    sums = [
        func.coalesce(func.sum(case((condition, entries.c.amount), else_=0)), 0)
        for condition in (
            transfers.c.kind == Kind.WELCOME,
            and_(settled, entries.c.amount > 0),
            and_(settled, entries.c.amount < 0),
        )
    ]
    query = (
        select(entries.c.owner, *sums)
        .join(transfers, transfers.c.id == entries.c.transfer_id)
        .where(entries.c.owner.is_not(None))
        .group_by(entries.c.owner)
    )
    return {
        owner: (Credits(int(welcome)), Credits(int(earned)), Credits(-int(paid)))
        for owner, welcome, earned, paid in connection.execute(query)
    }


def counts(database: Database) -> Counts:
    """How much there is of everything."""
    with database.reading() as connection:

        def count(table: Any, *conditions: Any) -> int:
            return int(connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one())

        return Counts(
            accounts=count(accounts),
            linked_peers=count(peers),
            transfers=count(transfers),
            open_holds=count(holds, holds.c.closed_at.is_(None)),
            ledger_sum=_sum_of_all_rows(connection),
        )


def mismatches(database: Database) -> list[str]:
    """Ledger accounts whose balance is not the sum of their rows: none, or the ledger is broken."""
    query = (
        select(balances.c.name)
        .outerjoin(entries, entries.c.name == balances.c.name)
        .group_by(balances.c.name)
        .having(balances.c.amount != func.coalesce(func.sum(entries.c.amount), 0))
    )
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def _sum_of_all_rows(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.sum(entries.c.amount), 0))).scalar_one())


def _totals(*columns: Any) -> Any:
    held = balances.c.name.startswith("held:")
    return select(
        *columns,
        func.coalesce(func.sum(case((held, 0), else_=balances.c.amount)), 0).label("available"),
        func.coalesce(func.sum(case((held, balances.c.amount), else_=0)), 0).label("held"),
    ).select_from(balances)
