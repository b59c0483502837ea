"""What accounts complain of: peers that a quorum has outvoted. Kept beside the ledger, and no part of it.

A complaint is one account's word. So that a word costs something, only an account that has set credits aside for a
peer may complain of it, of each task once, and not without end; so that one enemy counts for little, what is told is
how many *different* accounts have complained of any peer of an account lately.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, insert, select

from hivemind_bootstrap import rows
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.schema import complaints, holds, peers
from hivemind_p2p.errors import BusyError, ProtocolError
from hivemind_p2p.types import PeerId

LASTS = 30 * 24 * 3600.0
"""Seconds that a complaint counts: who was wrong once is not marked for ever."""

MOST_A_DAY = 200
"""Complaints of one account in a day."""

DAY = 24 * 3600.0
MAX_TASK_ID = 64


def complain(database: Database, by: PeerId, peer: PeerId, task_id: str, now: float) -> None:
    """Takes note of one; the same again changes nothing.

    Raises:
        AccountRequiredError: One of the two is linked to no account.
        ProtocolError: It is of oneself, or of a peer for which nothing was set aside.
        BusyError: This account has complained enough for a day.
    """
    if not 0 < len(task_id) <= MAX_TASK_ID or not task_id.isprintable():
        raise ProtocolError(f"peer {by} complained of a task without a proper id")
    with database.writing() as connection:
        accuser, accused = rows.account_of(connection, by), rows.account_of(connection, peer)
        if accuser.account_id == accused.account_id or not _has_dealt(connection, accuser.account_id, peer):
            raise ProtocolError(f"peer {by} complained of {peer}, with which it had no dealings")
        same = (complaints.c.by_account == accuser.account_id, complaints.c.peer_id == peer)
        if connection.execute(select(complaints.c.made_at).where(*same, complaints.c.task_id == task_id)).first():
            return
        lately = (complaints.c.by_account == accuser.account_id, complaints.c.made_at > now - DAY)
        if connection.execute(select(func.count()).select_from(complaints).where(*lately)).scalar_one() >= MOST_A_DAY:
            raise BusyError(f"{accuser.username} has complained {MOST_A_DAY} times today")
        row = {
            "by_account": accuser.account_id,
            "peer_id": peer,
            "task_id": task_id,
            "account_id": accused.account_id,
            "made_at": now,
        }
        connection.execute(insert(complaints).values(row))


def _has_dealt(connection: Connection, payer: int, peer: PeerId) -> bool:
    wanted = select(holds.c.id).where(holds.c.account_id == payer, holds.c.payee == peer).limit(1)
    return connection.execute(wanted).first() is not None


def complaints_about(database: Database, asked: Sequence[PeerId], now: float) -> list[int]:
    """Of each peer, how many accounts have complained lately of a peer of the same account."""
    query = (
        select(peers.c.peer_id, func.count(func.distinct(complaints.c.by_account)))
        .join(complaints, complaints.c.account_id == peers.c.account_id)
        .where(peers.c.peer_id.in_(asked), complaints.c.made_at > now - LASTS)
        .group_by(peers.c.peer_id)
    )
    with database.reading() as connection:
        found = {peer: int(count) for peer, count in connection.execute(query)}
    return [found.get(peer, 0) for peer in asked]
