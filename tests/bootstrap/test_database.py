"""What SQLite has to keep: transactions, threads, restarts, and a ledger that is written once."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from hivemind_bootstrap import reports
from hivemind_bootstrap.database import Database
from hivemind_p2p.credits.vouchers import Hold, Voucher
from hivemind_p2p.errors import (
    AccountExistsError,
    AccountRequiredError,
    ConfigurationError,
    InsufficientCreditsError,
    VoucherError,
)
from hivemind_p2p.types import PeerId

ANNA, BERT = PeerId("anna's peer"), PeerId("bert's peer")


def _hold(number: int, amount: int) -> Hold:
    return Hold(f"{number:032x}", ANNA, BERT, amount, 5_000.0)


@pytest.fixture
def two(database: Database) -> Database:
    database.register("anna", "hash", ANNA, 1_000, 1.0)
    database.register("bert", "hash", BERT, 1_000, 1.0)
    return database


def test_holds_made_at_the_same_time_cannot_overdraw(two: Database):
    def make(number: int) -> bool:
        try:
            two.make_hold(_hold(number, 300), 2.0)
        except InsufficientCreditsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(make, range(16)))
    assert sum(made) == 3
    balance = reports.balance(two, 1)
    assert (balance.available, balance.held) == (100, 900)


def test_the_same_voucher_handed_in_at_the_same_time_pays_once(two: Database):
    two.make_hold(_hold(1, 300), 2.0)
    voucher = Voucher(_hold(1, 300).hold_id, ANNA, BERT, 250)
    with ThreadPoolExecutor(8) as threads:
        settled = list(threads.map(lambda _: two.settle(voucher, [], 3.0), range(16)))
    assert settled == [250] * 16
    assert reports.balance(two, 2).available == 1_250


def test_the_same_name_registered_at_the_same_time_is_given_once(database: Database):
    def register(number: int) -> bool:
        try:
            database.register("anna", "hash", PeerId(f"peer {number}"), 5, 1.0)
        except AccountExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(register, range(8))) == 1
    assert reports.counts(database).accounts == 1


def test_everything_is_there_after_a_restart(tmp_path: Path):
    path = tmp_path / "l.sqlite3"
    for start in range(2):
        database = Database(path)
        if start == 0:
            database.register("anna", "hash", ANNA, 1_000, 1.0)
            database.make_hold(_hold(1, 300), 2.0)
        assert reports.balance(database, 1).held == 300
        assert database.account_of(ANNA).username == "anna"
        database.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_fails_leaves_nothing_behind(two: Database):
    before = reports.counts(two)
    with pytest.raises(InsufficientCreditsError):
        two.make_hold(_hold(1, 1_001), 2.0)
    with pytest.raises(AccountRequiredError):
        two.make_hold(Hold("ab" * 16, PeerId("nobody"), BERT, 1, 9.0), 2.0)
    with pytest.raises(VoucherError):
        two.settle(Voucher("cd" * 16, ANNA, BERT, 1), [], 2.0)
    assert reports.counts(two) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET amount = amount + 1",
        "DELETE FROM entries",
        "UPDATE transfers SET what = 'x'",
        "DELETE FROM transfers",
        "UPDATE balances SET amount = -1 WHERE name = 'account:1'",
        "INSERT INTO entries (transfer_id, name, amount) VALUES (999, 'account:1', 1)",
    ],
)
def test_the_file_itself_refuses_what_would_break_the_ledger(two: Database, statement: str):
    with pytest.raises(IntegrityError), two.reading() as connection:
        connection.exec_driver_sql(statement)


def test_reading_goes_on_while_somebody_writes(two: Database):
    with two._writer.begin() as writing:
        writing.exec_driver_sql("UPDATE balances SET amount = 1 WHERE name = 'account:1'")
        assert reports.balance(two, 1).available == 1_000
        writing.rollback()


def test_a_file_of_another_version_is_refused_with_a_reason(tmp_path: Path):
    path = tmp_path / "l.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="version 99"):
        Database(path)


def test_a_file_that_is_no_database_is_refused_with_a_reason(tmp_path: Path):
    path = tmp_path / "l.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        Database(path)


def test_a_very_long_list_of_holds_is_bounded(two: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hivemind_bootstrap.database.MOST_OPEN_HOLDS", 3)
    for number in range(3):
        two.make_hold(_hold(number, 1), 2.0)
    with pytest.raises(VoucherError, match="open holds"):
        two.make_hold(_hold(9, 1), 2.0)
    # Holds that have ended do not count.
    two.make_hold(_hold(9, 1), 99_999.0)
