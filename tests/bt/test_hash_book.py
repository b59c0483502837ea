import pytest

from hivemind_p2p.bt import file_hashing, hash_book
from hivemind_p2p.bt.concurrency import inline
from hivemind_p2p.bt.hash_book import Fingerprint, HashBook
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.sharing import make_manifest, scan
from hivemind_p2p.errors import ContentError
from tests.bt.swarms import make_folder, manifest_of, some_bytes

FILE = Fingerprint(device=1, inode=2, length=3, modified=4)


@pytest.fixture
def book(tmp_path):
    return HashBook(tmp_path / "book" / "hashes.sqlite3")


@pytest.fixture
def hashed(monkeypatch):
    names = []
    real = file_hashing.hash_span
    monkeypatch.setattr(file_hashing, "hash_span", lambda path, **span: names.append(path.name) or real(path, **span))
    return names


def test_a_layer_is_found_while_the_file_is_what_it_was(book):
    other = Fingerprint(1, (1 << 64) - 1, 3, 4)
    assert book.layers([FILE]) == [None]
    book.remember([(FILE, b"layer"), (other, b"other")])
    changed = [Fingerprint(9, 2, 3, 4), Fingerprint(1, 9, 3, 4), Fingerprint(1, 2, 9, 4), Fingerprint(1, 2, 3, 9)]
    assert book.layers([FILE, *changed, other]) == [b"layer", None, None, None, None, b"other"]
    book.remember([(Fingerprint(1, 2, 3, 9), b"newer")])
    assert book.layers([FILE, Fingerprint(1, 2, 3, 9)]) == [None, b"newer"]


def test_the_oldest_files_are_forgotten(book, monkeypatch):
    monkeypatch.setattr(hash_book, "MOST_FILES", 2)
    files = [Fingerprint(1, inode, 3, 4) for inode in range(4)]
    for file in files:
        book.remember([(file, b"x")])
    assert book.layers(files) == [None, None, b"x", b"x"]


def test_a_damaged_book_is_begun_anew(book, tmp_path):
    path = tmp_path / "book" / "hashes.sqlite3"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    assert book.layers([FILE]) == [None]
    book.remember([(FILE, b"layer")])
    assert book.layers([FILE]) == [b"layer"]


def test_without_a_file_nothing_is_remembered():
    book = HashBook(None)
    book.remember([(FILE, b"layer")])
    assert book.layers([FILE]) == [None]


async def test_a_file_is_known_in_another_content_and_under_another_name(autojump_clock, book, hashed, tmp_path):
    content = make_folder(tmp_path / "content", {"big": some_bytes(3000 * BLOCK + 5), "small": b"s", "empty": b""})
    manifest, _ = await make_manifest(scan(content), book=book, run_sync=inline)
    assert manifest == manifest_of(content)
    assert manifest.piece_length > BLOCK
    assert sorted(hashed) == ["big", "small"]
    (content / "small").rename(content / "renamed")
    renamed, _ = await make_manifest(scan(content), book=book, run_sync=inline)
    assert renamed == manifest_of(content)
    alone, _ = await make_manifest(scan(content / "renamed"), book=book, run_sync=inline)
    assert (alone.piece_length, alone.name, alone.is_file) == (BLOCK, "renamed", True)
    assert sorted(hashed) == ["big", "small"]


async def test_many_files_of_all_sizes(autojump_clock, book, monkeypatch, tmp_path):
    monkeypatch.setattr(file_hashing, "SPAN", 8 * BLOCK)
    monkeypatch.setattr(file_hashing, "MOST_TOGETHER", 5)
    sizes = [0, 1, BLOCK, 8 * BLOCK, 8 * BLOCK + 1, 30 * BLOCK + 7, *range(100, 130)]
    files = {f"{number:03d}": some_bytes(size, number) for number, size in enumerate(sizes)}
    content = make_folder(tmp_path / "content", files)
    manifest, stamps = await make_manifest(scan(content), book=book, run_sync=inline)
    assert manifest == manifest_of(content)
    assert stamps == {name: (content / name).stat().st_mtime_ns for name in files}


async def test_a_file_that_cannot_be_read_is_told(autojump_clock, book, tmp_path):
    content = make_folder(tmp_path / "content", {"a": b"a", "b": b"b"})
    found = scan(content)
    (content / "b").unlink()
    with pytest.raises(ContentError, match="cannot read"):
        await make_manifest(found, book=book, run_sync=inline)
