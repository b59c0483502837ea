"""Records on the disk: a node that starts again has them, whatever became of the file."""

import sqlite3

import pytest
import trio
import trio.testing

from hivemind_p2p.dht import record_keeper, records
from hivemind_p2p.dht.record_database import RecordDatabase
from hivemind_p2p.dht.record_keeper import FILE_NAME, OPEN_AGAIN_AFTER, WRITE_EVERY, RecordKeeper
from hivemind_p2p.dht.record_store import RecordStore
from hivemind_p2p.errors import RecordError
from hivemind_p2p.identity import Identity

NOW = 1_700_000_000.0
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)


def record(signer=ALICE, key="key", value=b"value", sequence=1, expires_at=NOW + 60):
    return records.sign(signer, key, value, sequence=sequence, expires_at=expires_at)


def put(store, signed, now=NOW):
    return store.put(signed.body, signed.signature, now)


def values(store, now=NOW, key="key"):
    return [signed.record.value for signed in store.get(key, now)]


async def life(folder, action=lambda store: None, now=NOW):
    """A node's life: its store from the disk, what happens to it, and the end in good order."""
    store = RecordStore(journal=True)
    keeper = RecordKeeper(store, folder, lambda: now)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        await trio.testing.wait_all_tasks_blocked()
        while keeper.restored + keeper.damaged < rows_in(folder, now):
            await trio.lowlevel.checkpoint()
        action(store)
        nursery.cancel_scope.cancel()
    return store, keeper


def rows_in(folder, now):
    connection = sqlite3.connect(folder / FILE_NAME)
    try:
        ((count,),) = connection.execute("SELECT count(*) FROM records WHERE forget_at > ?", (now,)).fetchall()
        return count
    except sqlite3.DatabaseError:
        return 0
    finally:
        connection.close()


async def test_what_was_stored_is_there_after_a_restart(tmp_path):
    await life(tmp_path, lambda store: [put(store, record()), put(store, record(BOB, value=b"bob's"))])
    store, keeper = await life(tmp_path)
    assert sorted(values(store)) == [b"bob's", b"value"]
    assert (len(store), keeper.restored) == (2, 2)


async def test_an_older_record_cannot_come_back_after_a_restart(tmp_path):
    long = record(value=b"old", expires_at=NOW + 600)
    tombstone = record(value=b"", sequence=2, expires_at=NOW + 10)
    await life(tmp_path, lambda store: [put(store, long), put(store, tombstone)])
    store, _ = await life(tmp_path, now=NOW + 20)
    assert values(store, NOW + 20) == []
    assert not put(store, long, NOW + 20)
    assert values(store, NOW + 20) == []


async def test_what_expired_while_the_node_was_away_is_purged(tmp_path):
    await life(tmp_path, lambda store: put(store, record()))
    store, _ = await life(tmp_path, now=NOW + 60)
    assert len(store) == 0
    assert rows_in(tmp_path, 0) == 0


async def test_what_was_forgotten_is_deleted(tmp_path):
    await life(tmp_path, lambda store: put(store, record()))
    await life(tmp_path, lambda store: store.expire(NOW + 60))
    assert rows_in(tmp_path, 0) == 0


async def test_the_newest_is_what_is_written(tmp_path):
    await life(tmp_path, lambda store: [put(store, record(value=b"%d" % n, sequence=n)) for n in (1, 2, 3)])
    store, _ = await life(tmp_path)
    assert values(store) == [b"3"]


@pytest.mark.parametrize("content", [b"this is no database", b"SQLite format 3\x00" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_moved_aside(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    await life(tmp_path, lambda store: put(store, record()))
    store, _ = await life(tmp_path)
    assert values(store) == [b"value"]
    (aside,) = tmp_path.glob("*.damaged-*")
    assert aside.read_bytes() == content


async def test_a_file_of_another_version_is_moved_aside(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    store, _ = await life(tmp_path, lambda store: put(store, record()))
    assert values(store) == [b"value"]
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


async def test_a_damaged_row_is_left_out(tmp_path):
    await life(tmp_path, lambda store: [put(store, record()), put(store, record(BOB, value=b"bob's"))])
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("UPDATE records SET body = x'0011' WHERE signer = ?", (ALICE.peer_id,))
    connection.commit()
    connection.close()
    store, keeper = await life(tmp_path)
    assert values(store) == [b"bob's"]
    assert (keeper.restored, keeper.damaged) == (1, 1)


async def test_a_file_that_is_damaged_while_it_is_used_is_begun_anew(tmp_path, monkeypatch):
    whole = RecordDatabase.write

    def damaged(self, changes):
        monkeypatch.setattr(RecordDatabase, "write", whole)
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(RecordDatabase, "write", damaged)
    await life(tmp_path, lambda store: put(store, record()))
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    store, _ = await life(tmp_path)
    assert values(store) == [b"value"]


async def test_a_full_disk_is_no_reason_to_stop(tmp_path, monkeypatch):
    def full(self, changes):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(RecordDatabase, "write", full)
    store, keeper = await life(tmp_path, lambda store: put(store, record()))
    assert values(store) == [b"value"]
    assert keeper.written == 0
    assert store.take_changes(9)


async def test_without_a_folder_that_can_be_written_records_are_kept_in_memory(tmp_path):
    store = RecordStore(journal=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(RecordKeeper(store, tmp_path / "missing", lambda: NOW).run)
        put(store, record())
        nursery.cancel_scope.cancel()
    assert values(store) == [b"value"]


async def test_a_folder_that_appears_later_is_written_to_after_all(tmp_path, autojump_clock):
    store = RecordStore(journal=True)
    keeper = RecordKeeper(store, tmp_path / "missing", lambda: NOW)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        put(store, record())
        await trio.sleep(OPEN_AGAIN_AFTER + WRITE_EVERY)
        assert keeper.written == 0
        (tmp_path / "missing").mkdir()
        while not keeper.written:  # noqa: ASYNC110 - the disk is real, and nothing tells of it
            await trio.sleep(WRITE_EVERY)
        nursery.cancel_scope.cancel()
    assert rows_in(tmp_path / "missing", NOW) == 1


async def test_a_disk_that_stays_full_is_told_of_once(tmp_path, monkeypatch, autojump_clock):
    warnings = []
    monkeypatch.setattr(record_keeper._events, "warning", lambda event, **_: warnings.append(event))

    tries = []

    def full(self, changes):
        tries.append(changes)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(RecordDatabase, "write", full)
    store = RecordStore(journal=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(RecordKeeper(store, tmp_path, lambda: NOW).run)
        put(store, record())
        while len(tries) < 3:  # noqa: ASYNC110 - threads try, and nothing tells of it
            await trio.sleep(WRITE_EVERY)
        nursery.cancel_scope.cancel()
    assert warnings == ["records_not_written"]


@pytest.mark.parametrize("wrong", ["body = 7", "body = 'text'", "signature = 'text'", "body = zeroblob(99999)"])
async def test_what_is_no_record_is_purged(tmp_path, wrong):
    await life(tmp_path, lambda store: [put(store, record()), put(store, record(BOB, value=b"bob's"))])
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(f"UPDATE records SET {wrong} WHERE signer = ?", (ALICE.peer_id,))
    connection.commit()
    connection.close()
    store = RecordStore(journal=True)
    keeper = RecordKeeper(store, tmp_path, lambda: NOW)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(keeper.run)
            while not keeper.restored:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert values(store) == [b"bob's"]
    assert rows_in(tmp_path, NOW) == 1


def test_changes_that_nobody_takes_stay_bounded():
    store = RecordStore(journal=True, most_records=10)
    for number in range(100):
        put(store, record(key=f"key {number}", expires_at=NOW + number + 1), NOW + number)
        store.expire(NOW + number)
    assert len(store.take_changes(999)) <= 21


def test_restoring_checks_signatures():
    signed = record()
    with pytest.raises(RecordError, match="not signed"):
        RecordStore().restore(signed.body, bytes(64), NOW + 60, NOW)


def test_changes_are_taken_once_and_can_be_given_back():
    store = RecordStore(journal=True)
    put(store, record())
    put(store, record(BOB))
    first = store.take_changes(1)
    rest = store.take_changes(9)
    assert [change.signer for change in (*first, *rest)] == [ALICE.peer_id, BOB.peer_id]
    assert store.take_changes(9) == ()
    store.give_back(first)
    assert store.take_changes(9) == first
    assert RecordStore().take_changes(9) == ()
