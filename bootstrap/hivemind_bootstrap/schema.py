"""The tables. All amounts are millionths of a credit, all times seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

VERSION = 1
"""Kept in SQLite's ``user_version``; a database of another version is refused instead of misread."""

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("username", String(32), nullable=False, unique=True),
    Column("password_hash", String(256), nullable=False),
    Column("created_at", Float, nullable=False),
)

peers = Table(
    "peers",
    metadata,
    Column("peer_id", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("linked_at", Float, nullable=False),
)

# `owner` is the account that a ledger account belongs to: for a hold, the payer's.
balances = Table(
    "balances",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", ForeignKey("accounts.id"), index=True),
    Column("amount", Integer, nullable=False),
    CheckConstraint("amount >= 0 OR name = 'hive:welcome'", name="not_below_zero"),
)

transfers = Table(
    "transfers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("what", String(1000), nullable=False),
    Column("made_at", Float, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("transfer_id", ForeignKey("transfers.id"), nullable=False, index=True),
    Column("name", ForeignKey("balances.name"), nullable=False),
    Column("owner", ForeignKey("accounts.id")),
    Column("amount", Integer, nullable=False),
    Index("entries_by_owner", "owner", "transfer_id"),
)

holds = Table(
    "holds",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("payer", String(64), nullable=False),
    Column("payee", String(64), nullable=False),
    Column("amount", Integer, nullable=False),
    Column("settled", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("closed_at", Float),
    CheckConstraint("settled BETWEEN 0 AND amount", name="settled_within_the_hold"),
    Index("holds_open", "closed_at", "expires_at"),
)

receipts = Table(
    "receipts",
    metadata,
    Column("worker", String(64), primary_key=True),
    Column("receipt_id", String(200), primary_key=True),
    Column("hold_id", ForeignKey("holds.id"), nullable=False, index=True),
    Column("transfer_id", ForeignKey("transfers.id")),
    Column("work_id", String(200), nullable=False),
    Column("amount", Integer, nullable=False),
    Column("what", String(200), nullable=False),
    Column("finished_at", Float, nullable=False),
    Column("signed", LargeBinary, nullable=False),
)

# What accounts say of others' peers. No part of the ledger: nothing is paid or taken for it.
complaints = Table(
    "complaints",
    metadata,
    Column("by_account", ForeignKey("accounts.id"), primary_key=True),
    Column("peer_id", String(64), primary_key=True),
    Column("task_id", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("made_at", Float, nullable=False),
    Index("complaints_about", "account_id", "made_at"),
    Index("complaints_by", "by_account", "made_at"),
)

# The ledger is written once: what went wrong is put right by another transfer, never by a change.
WRITTEN_ONCE = tuple(
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} are written once'); END"
    for table in ("transfers", "entries")
    for verb in ("UPDATE", "DELETE")
)
