"""The statements of which `database` makes transactions: each runs inside somebody's, none begins or ends one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from hivemind_bootstrap import ledger, settlement
from hivemind_bootstrap.ledger import Transfer
from hivemind_bootstrap.schema import accounts, balances, entries, holds, peers, receipts, transfers
from hivemind_bootstrap.settlement import HoldState
from hivemind_p2p.credits.receipts import Receipt
from hivemind_p2p.credits.vouchers import HOLD_GRACE, Hold
from hivemind_p2p.errors import AccountRequiredError, VoucherError
from hivemind_p2p.types import PeerId


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


def new_id(result: Any) -> int:
    """The id that SQLite gave to an inserted row."""
    return int(result.inserted_primary_key[0])


def account_of(connection: Connection, peer: PeerId) -> Account:
    """The account that a peer is linked to.

    Raises:
        AccountRequiredError: It is linked to none.
    """
    query = select(accounts).join(peers, peers.c.account_id == accounts.c.id).where(peers.c.peer_id == peer)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise AccountRequiredError(f"the peer {peer} is not linked to an account")
    return Account(row.id, row.username, row.password_hash)


def link(connection: Connection, peer: PeerId, account_id: int, now: float) -> None:
    """Links a peer to an account, and to no other."""
    row = {"account_id": account_id, "linked_at": now}
    statement = upsert(peers).values(peer_id=peer, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["peer_id"], set_=row))


def open_balance(connection: Connection, name: str, owner: int | None) -> None:
    """Makes a ledger account with nothing in it, where there is none yet."""
    connection.execute(upsert(balances).values(name=name, owner=owner, amount=0).on_conflict_do_nothing())


def balance(connection: Connection, name: str) -> int:
    """What a ledger account has."""
    return int(connection.execute(select(balances.c.amount).where(balances.c.name == name)).scalar_one())


def post(connection: Connection, transfer: Transfer, now: float) -> int:
    """Writes a transfer and moves the balances: the only place where either is written."""
    names = [entry.account for entry in transfer.entries]
    rows = connection.execute(select(balances).where(balances.c.name.in_(names))).all()
    owners = {row.name: row.owner for row in rows}
    after = ledger.apply({row.name: row.amount for row in rows}, transfer)
    for name, amount in after.items():
        connection.execute(update(balances).where(balances.c.name == name).values(amount=amount))
    row = {"kind": str(transfer.kind), "what": transfer.what, "made_at": now}
    transfer_id = new_id(connection.execute(insert(transfers).values(row)))
    written = [
        {"transfer_id": transfer_id, "name": entry.account, "owner": owners[entry.account], "amount": entry.amount}
        for entry in transfer.entries
    ]
    connection.execute(insert(entries), written)
    return transfer_id


def as_state(row: Any) -> HoldState:
    """A hold from its row."""
    hold = Hold(row.id, PeerId(row.payer), PeerId(row.payee), row.amount, row.expires_at)
    return HoldState(hold, row.account_id, row.settled, row.closed_at is not None)


def hold_state(connection: Connection, hold_id: str) -> HoldState | None:
    """A hold by its id."""
    row = connection.execute(select(holds).where(holds.c.id == hold_id)).one_or_none()
    return as_state(row) if row else None


def known_hold(connection: Connection, hold_id: str) -> HoldState:
    """A hold by its id.

    Raises:
        VoucherError: There is none.
    """
    state = hold_state(connection, hold_id)
    if state is None:
        raise VoucherError(f"there is no hold {hold_id}")
    return state


def same_hold(state: HoldState, wanted: Hold) -> Hold:
    """The hold that was made before under the id of the wanted one.

    Raises:
        VoucherError: It is another one.
    """
    made = state.hold
    if (made.payer, made.payee, made.amount) != (wanted.payer, wanted.payee, wanted.amount):
        raise VoucherError(f"the hold {wanted.hold_id} exists and is another one")
    return made


def open_holds(connection: Connection, payer: PeerId) -> int:
    """How many holds of a payer have not ended."""
    query = select(func.count()).select_from(holds).where(holds.c.payer == payer, holds.c.closed_at.is_(None))
    return int(connection.execute(query).scalar_one())


def hold_row(hold: Hold, account_id: int) -> dict[str, Any]:
    """What is stored of a new hold."""
    return {
        "id": hold.hold_id,
        "account_id": account_id,
        "payer": hold.payer,
        "payee": hold.payee,
        "amount": hold.amount,
        "settled": 0,
        "expires_at": hold.expires_at,
    }


def release(connection: Connection, state: HoldState, now: float) -> int:
    """Ends a hold, and returns what went back to its payer."""
    if state.rest:
        post(connection, ledger.release(state.hold.hold_id, state.account_id, state.rest), now)
    connection.execute(update(holds).where(holds.c.id == state.hold.hold_id).values(closed_at=now))
    return state.rest


def release_ended(connection: Connection, now: float, *, payer: PeerId | None = None) -> int:
    """Ends the holds (of one payer) whose grace is over; returns how many."""
    query = select(holds).where(holds.c.closed_at.is_(None), holds.c.expires_at <= now - HOLD_GRACE)
    if payer is not None:
        query = query.where(holds.c.payer == payer)
    ended = [as_state(row) for row in connection.execute(query).all()]
    for state in ended:
        if settlement.can_release(state, now):
            release(connection, state, now)
    return len(ended)


def new_receipts(connection: Connection, hold: Hold, proofs: Sequence[SignedReceipt]) -> list[SignedReceipt]:
    """Those that belong to a hold and are not stored yet."""
    fitting = settlement.matching(hold, [proof.receipt for proof in proofs])
    by_id = {proof.receipt.receipt_id: proof for proof in proofs if proof.receipt in fitting}
    query = select(receipts.c.receipt_id).where(receipts.c.worker == hold.payee, receipts.c.receipt_id.in_(list(by_id)))
    for known in connection.execute(query).scalars():
        del by_id[known]
    return list(by_id.values())


def receipt_row(proof: SignedReceipt, hold_id: str, transfer_id: int | None) -> dict[str, Any]:
    """What is stored of a receipt."""
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
