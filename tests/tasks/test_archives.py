"""Archives that attack: each is refused, and nothing lands outside of the folder."""

import contextlib
import io
import stat
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.errors import ArchiveError
from hivemind_p2p.tasks import archives


def zipped(*entries, comment=b"", method=zipfile.ZIP_DEFLATED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        archive.comment = comment
    return made.getvalue()


def special(name, kind):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (kind | 0o777) << 16
    return entry


def refused(tmp_path, data, match, **limits):
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    with pytest.raises(ArchiveError, match=match):
        archives.unpack(data, folder, **limits)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    return list(folder.rglob("*"))


def test_a_folder_comes_out_as_it_went_in(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "deep" / "er").mkdir(parents=True)
    second.mkdir()
    (first / "main.py").write_text("print()")
    (first / "deep" / "er" / "ä.bin").write_bytes(bytes(100_000))
    packed = archives.pack_folder(first)
    archives.unpack(packed, second)
    assert (second / "deep" / "er" / "ä.bin").read_bytes() == bytes(100_000)
    assert archives.pack_folder(second) == packed


LONG_NAMES = ["n" * 256, "/".join("d" * 33), "con" * 400]


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a//x", "./x", "a\\..\\x", "C:/x", "x\0y", "a\nb", "x.", "..", "/", *LONG_NAMES],
)
def test_names_that_lead_elsewhere(tmp_path, name):
    # zipfile cleans some of these names when it writes, so they are put in afterwards.
    stand_in = "N" * len(name.encode())
    data = zipped((stand_in, b"x")).replace(stand_in.encode(), name.encode())
    assert refused(tmp_path, data, "name") == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices(tmp_path, kind):
    assert refused(tmp_path, zipped(("good", b""), (special("bad", kind), b"/etc/passwd")), "neither") == []


def test_a_file_through_a_link_that_came_before(tmp_path):
    data = zipped((special("dir", stat.S_IFLNK), b".."), ("dir/x", b"out"))
    assert refused(tmp_path, data, "neither") == []


def test_a_bomb_is_refused_by_what_it_says(tmp_path):
    assert refused(tmp_path, zipped(("bomb", bytes(2_000_000))), "more than 1,000,000", max_bytes=1_000_000) == []


def test_a_bomb_that_lies_writes_no_more_than_it_said(tmp_path):
    data = zipped(("bomb", bytes(2_000_000))).replace(struct.pack("<I", 2_000_000), struct.pack("<I", 10))
    left = refused(tmp_path, data, "damaged|longer", max_bytes=1_000_000)
    assert sum(path.stat().st_size for path in left) <= 10


def test_a_list_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    many = zipped(*((f"f{number}", b"") for number in range(100)))
    monkeypatch.setattr(archives, "MAX_LIST_BYTES", 1_000)
    monkeypatch.setattr(archives.zipfile, "ZipFile", None)
    assert refused(tmp_path, many, "too long") == []


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    assert refused(tmp_path, zipped(*((f"f{number}", b"") for number in range(4))), "4 entries") == []


@pytest.mark.parametrize(
    "entries",
    [(("a", b""), ("A", b"")), (("a", b""), ("a/b", b"")), (("a/b", b""), ("a", b"")), (("é", b""), ("e\u0301", b""))],
)
def test_names_that_collide(tmp_path, entries):
    assert refused(tmp_path, zipped(*entries), "two entries|file and a folder") == []


def test_forms_that_are_not_needed(tmp_path):
    refused(tmp_path, zipped(("a", b""), comment=b"hello"), "comment")
    refused(tmp_path, zipped(("a", b"x" * 99), method=zipfile.ZIP_LZMA), "deflate")
    refused(tmp_path, b"", "no zip")


def test_a_folder_with_a_link_is_not_packed(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="link is neither"):
        archives.pack_folder(tmp_path)


def test_a_folder_that_is_too_large_is_not_packed(tmp_path):
    (tmp_path / "file").write_bytes(bytes(11))
    with pytest.raises(ArchiveError, match="more than 10 bytes"):
        archives.pack_folder(tmp_path, max_bytes=10)


GOOD = zipped(("main.py", b"print(1)" * 50), ("data/x.bin", bytes(range(256))))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_is_an_archive_error_and_nothing_else(tmp_path_factory, changes):
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    outside = tmp_path_factory.mktemp("outside")
    folder = outside / "folder"
    folder.mkdir()
    with contextlib.suppress(ArchiveError):
        archives.unpack(bytes(data), folder, max_bytes=10_000)
    assert [path.name for path in outside.iterdir()] == ["folder"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 10_000
