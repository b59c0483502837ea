import errno
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind_p2p.bt import files
from hivemind_p2p.bt.catalogue import Catalogue
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.piece_log import LOST, PieceLog
from hivemind_p2p.bt.storage import ContentStore
from hivemind_p2p.bt.wire import Block
from hivemind_p2p.errors import ContentError, DiskFullError, UnsafePathError
from tests.bt.swarms import contents_of, make_folder, manifest_of, some_bytes

FILES = {"a.bin": some_bytes(3 * BLOCK + 7), "sub/b.bin": some_bytes(2 * BLOCK, 1), "sub/empty": b""}


@pytest.fixture
def original(tmp_path):
    return make_folder(tmp_path / "original" / "content", FILES)


@pytest.fixture
def manifest(original):
    return manifest_of(original, BLOCK)


@pytest.fixture
def pieces(manifest):
    spans = [manifest.piece(number) for number in range(manifest.pieces)]
    return [FILES[span.file.path][span.offset : span.offset + span.length] for span in spans]


def open_store(manifest, tmp_path, name="store"):
    (tmp_path / name).mkdir(exist_ok=True)
    return ContentStore(manifest, tmp_path / name, PieceLog(tmp_path / f"{name}.pieces"))


def filled(manifest, tmp_path, pieces, numbers=None):
    store = open_store(manifest, tmp_path)
    store.prepare(manifest.files)
    for number in range(len(pieces)) if numbers is None else numbers:
        assert store.write(number, pieces[number])
    return store


def test_pieces_in_any_order_make_the_files(manifest, tmp_path, pieces):
    store = filled(manifest, tmp_path, pieces, [5, 0, 3, 1, 4, 2])
    assert store.held.complete
    assert contents_of(store.path) == FILES
    assert store.read(1, 5, 10) == pieces[1][5:15]
    assert store.read(3, 0, 8) is None, "behind the end of a short piece"


def test_a_wrong_piece_is_not_written(manifest, tmp_path, pieces):
    store = filled(manifest, tmp_path, pieces, [])
    for wrong in (pieces[1], pieces[0][:-1], b"", pieces[0] + b"x", bytes(BLOCK)):
        assert not store.write(0, wrong)
    assert len(store.held) == 0
    assert not any((store.path / "a.bin").read_bytes())


def test_after_a_kill_only_recorded_pieces_count(manifest, tmp_path, pieces):
    filled(manifest, tmp_path, pieces, [0, 4])
    log = tmp_path / "store.pieces"
    log.write_bytes(log.read_bytes() + b"cut")  # a record that was cut off
    again = open_store(manifest, tmp_path)
    again.prepare(manifest.files)
    assert list(again.held) == [0, 4]
    assert again.write(1, pieces[1])
    assert list(open_store(manifest, tmp_path).held) == [0, 1, 4]


def test_a_write_that_was_not_recorded_makes_the_file_be_checked_again(manifest, tmp_path, pieces):
    store = filled(manifest, tmp_path, pieces, [0, 1])
    with store.path.joinpath("a.bin").open("r+b") as file:
        file.write(b"!" + pieces[0][1:])
    again = open_store(manifest, tmp_path)
    os.utime(again.path / "a.bin", ns=(1, 1))
    assert again.read(0, 0, 5) is None
    assert again.read(1, 0, 5) == pieces[1][:5]
    again.prepare(manifest.files)
    assert list(again.held) == [1]
    assert list(open_store(manifest, tmp_path).held) == [1]
    assert again.intact([1])


@pytest.mark.parametrize("damage", ["truncated", "deleted", "flipped"])
def test_damaged_files_are_never_given_out_and_heal(manifest, tmp_path, pieces, damage):
    store = filled(manifest, tmp_path, pieces)
    path = store.path / "a.bin"
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, BLOCK + 1)
    else:
        path.write_bytes(bytes([pieces[0][0] ^ 1]) + path.read_bytes()[1:])
        os.utime(path, ns=(5, 5))
    assert not store.intact([0])
    given_out = [store.read(number, 0, 7) for number in range(4)]
    assert all(data is None or data == pieces[number][:7] for number, data in enumerate(given_out))
    assert None in given_out
    store.prepare(manifest.files)
    missing = [number for number in range(manifest.pieces) if number not in store.held]
    assert missing
    for number in missing:
        assert store.write(number, pieces[number])
    assert contents_of(store.path) == FILES


def test_a_foreign_file_is_never_overwritten(manifest, tmp_path):
    make_folder(tmp_path / "store", {"content/a.bin": bytes(3 * BLOCK) + b"precious"[:7]})
    store = open_store(manifest, tmp_path)
    with pytest.raises(ContentError, match="something else"):
        store.prepare(manifest.files)
    (tmp_path / "store/content/a.bin").write_bytes(b"another length")
    with pytest.raises(ContentError, match="something else"):
        store.prepare(manifest.files)
    assert (tmp_path / "store/content/a.bin").read_bytes() == b"another length"


def test_files_that_are_there_already_are_taken_over(manifest, tmp_path, pieces):
    partly = pieces[0] + bytes(BLOCK) + pieces[2] + pieces[3]
    make_folder(tmp_path / "store", {"content/a.bin": partly})
    store = open_store(manifest, tmp_path)
    store.prepare(manifest.files)
    assert list(store.held) == [0, 2, 3]


def test_a_symbolic_link_in_the_way_is_not_followed(manifest, tmp_path, pieces):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "store/content").mkdir(parents=True)
    (tmp_path / "store/content/sub").symlink_to(outside)
    store = open_store(manifest, tmp_path)
    with pytest.raises(UnsafePathError):
        store.prepare(manifest.files)
    (tmp_path / "store/content/sub").unlink()
    store.prepare(manifest.files)
    (tmp_path / "target").write_bytes(b"safe")
    (store.path / "a.bin").unlink()
    (store.path / "a.bin").symlink_to(tmp_path / "target")
    with pytest.raises(UnsafePathError):
        store.write(0, pieces[0])
    with pytest.raises(UnsafePathError):
        store.prepare(manifest.files)
    assert (tmp_path / "target").read_bytes() == b"safe"
    assert list(outside.iterdir()) == []


def test_a_batch_over_files_with_a_wrong_piece_in_it(manifest, tmp_path, pieces):
    store = filled(manifest, tmp_path, pieces, [])
    batch = [(number, b"wrong" if number == 2 else pieces[number]) for number in range(6)]
    assert store.write_batch(batch) == ([True, True, False, True, True, True], None)
    assert list(store.held) == [0, 1, 3, 4, 5]
    again = open_store(manifest, tmp_path)
    assert again.intact([0, 1, 3, 4, 5])
    assert again.read(4, 0, BLOCK) == pieces[4]


def test_a_disk_that_is_full_in_a_batch_keeps_what_was_written_before(manifest, tmp_path, pieces, monkeypatch):
    store = filled(manifest, tmp_path, pieces, [])

    def limited(descriptor, data, offset, path):
        if data == pieces[2]:
            raise DiskFullError("no room")
        os.pwrite(descriptor, data, offset)

    monkeypatch.setattr("hivemind_p2p.bt.storage.write_all", limited)
    batch = [(0, b"wrong"), (1, pieces[1]), (2, pieces[2]), (3, pieces[3])]
    right, failure = store.write_batch(batch)
    assert (right, type(failure)) == ([False, True], DiskFullError)
    monkeypatch.undo()
    assert list(store.held) == [1]
    assert list(open_store(manifest, tmp_path).held) == [1]
    assert store.write_batch(batch[len(right) :]) == ([True, True], None)


def test_reading_many_blocks_of_a_file_opens_it_once_and_closes_it(manifest, tmp_path, pieces, monkeypatch):
    store = filled(manifest, tmp_path, pieces, [0, 1, 2, 4])
    opened, closed = [], []
    real_open, real_close = os.open, os.close

    def noted_open(*args, **kwargs):
        opened.append(real_open(*args, **kwargs))
        return opened[-1]

    def noted_close(descriptor):
        closed.append(descriptor)
        real_close(descriptor)

    monkeypatch.setattr(os, "open", noted_open)
    monkeypatch.setattr(os, "close", noted_close)
    blocks = [Block(0, 0, 8), Block(1, 0, 8), Block(2, 0, 8), Block(4, 0, 8)]
    store.read_now(blocks, memoryview(bytearray(32)))
    assert len(opened) <= 2, "one a file"
    assert sorted(opened) == sorted(closed)


def test_reading_without_waiting_gives_the_same_or_nothing(manifest, tmp_path, pieces):
    store = filled(manifest, tmp_path, pieces, [0, 1, 4])
    memory = memoryview(bytearray(2 * BLOCK + 8))
    blocks = [Block(1, 0, BLOCK), Block(4, 0, BLOCK), Block(0, 3, 8)]
    if store.read_now(blocks, memory):  # not everywhere does the system say what is in its memory
        assert memory == pieces[1] + pieces[4] + pieces[0][3:11]
    assert store.read_into(blocks, memory) == blocks
    assert memory == pieces[1] + pieces[4] + pieces[0][3:11]
    assert not store.read_now([Block(2, 0, 8)], memory), "it is not there"
    assert not store.read_now([Block(0, BLOCK - 4, 8)], memory), "it ends before"
    with (store.path / "a.bin").open("r+b") as file:
        file.write(b"!")
    os.utime(store.path / "a.bin", ns=(1, 1))
    assert not store.read_now([Block(1, 0, 8)], memory), "somebody else wrote to the file"
    assert store.read_into([Block(0, 0, 8), Block(1, 0, 8), Block(4, 0, 8)], memory) == [
        Block(1, 0, 8),
        Block(4, 0, 8),
    ]
    assert memory[:16] == pieces[1][:8] + pieces[4][:8]


def test_a_full_disk_loses_nothing(manifest, tmp_path, pieces, monkeypatch):
    store = filled(manifest, tmp_path, pieces, [0])
    room = [BLOCK // 2]
    write = os.pwrite

    def limited(descriptor, data, offset):
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, data[: room[0]], offset)
        room[0] -= count
        return count

    monkeypatch.setattr(files.os, "pwrite", limited)
    with pytest.raises(DiskFullError, match=r"no room to write .*a\.bin"):
        store.write(1, pieces[1])
    monkeypatch.undo()
    assert list(store.held) == [0]
    again = open_store(manifest, tmp_path)
    again.prepare(manifest.files)
    assert list(again.held) == [0]
    assert again.write(1, pieces[1])
    assert again.read(1, 0, BLOCK) == pieces[1]


def test_a_record_that_does_not_fit_leaves_the_log_readable(tmp_path, monkeypatch):
    log = PieceLog(tmp_path / "log")
    log.append([(1, 10)])
    write = os.pwrite
    monkeypatch.setattr(files.os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:5], offset))
    real = files.write_all

    def torn(descriptor, data, offset, path):
        write(descriptor, data[:5], offset)
        raise DiskFullError("no room")

    monkeypatch.setattr("hivemind_p2p.bt.piece_log.write_all", torn)
    with pytest.raises(DiskFullError):
        log.append([(2, 20)])
    monkeypatch.setattr("hivemind_p2p.bt.piece_log.write_all", real)
    monkeypatch.setattr(files.os, "pwrite", write)
    assert list(log.read()) == [(1, 10)]
    log.append([(3, 30), (1, LOST)])
    assert list(log.read()) == [(1, 10), (3, 30), (1, LOST)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_history_of_writes_kills_and_damage_gives_out_only_right_bytes(manifest, tmp_path_factory, pieces, data):
    folder = tmp_path_factory.mktemp("history")
    store = open_store(manifest, folder)
    store.prepare(manifest.files)
    stamp = 1
    for _ in range(data.draw(st.integers(1, 12))):
        number = data.draw(st.integers(0, manifest.pieces - 1))
        step = data.draw(st.sampled_from(["write", "write", "lie", "restart", "damage"]))
        if step == "write":
            assert store.write(number, pieces[number])
        elif step == "lie":
            assert not store.write(number, bytes(len(pieces[number])))
        elif step == "restart":
            store = open_store(manifest, folder)
            store.prepare(manifest.files)
        else:
            span = manifest.piece(number)
            with store.path_of(span.file).open("r+b") as file:
                file.seek(span.offset)
                file.write(b"damage")
            stamp += 1
            os.utime(store.path_of(span.file), ns=(stamp, stamp))
        for each in list(store.held):
            given_out = store.read(each, 0, len(pieces[each]))
            assert given_out is None or given_out == pieces[each]


def test_the_catalogue_remembers_and_survives_damage(manifest, tmp_path, original, pieces):
    catalogue = Catalogue(tmp_path / "peer")
    stamps = {path: (original / path).stat().st_mtime_ns for path in FILES}
    catalogue.add(manifest, original.parent, now=1.0, shared=True, stamps=stamps)
    (again,) = Catalogue(tmp_path / "peer").load()
    assert again.manifest == manifest
    assert again.shared
    assert again.held.complete
    assert again.intact(range(manifest.pieces))
    assert again.read(4, 0, BLOCK) == pieces[4]
    entry = tmp_path / "peer/catalogue" / manifest.infohash.hex() / "content.json"
    for damage in (b"", b"[]", b"{}", b'{"location": 1, "shared": true}', b"\xff"):
        entry.write_bytes(damage)
        assert Catalogue(tmp_path / "peer").load() == []


def test_a_manifest_that_was_changed_on_the_disk_is_left_out(manifest, tmp_path, original):
    catalogue = Catalogue(tmp_path / "peer")
    catalogue.add(manifest, original.parent, now=1.0)
    path = tmp_path / "peer/catalogue" / manifest.infohash.hex() / "manifest.torrent"
    path.write_bytes(path.read_bytes().replace(b"7:content", b"7:kontent"))
    assert catalogue.load() == []
