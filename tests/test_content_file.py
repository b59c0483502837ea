"""A content's file as Python's own file classes see it, over a stand-in for the swarm."""

import io
import os
import zipfile

import pytest

from hivemind_p2p import portal
from hivemind_p2p.content_file import open_file

PIECE = 1000


class Pieces:
    """Gives out at most what lies in one piece, as the swarm's reader does."""

    name = "data.zip"

    def __init__(self, data):
        self.data = data
        self.length = len(data)
        self.closed = False

    async def read_at(self, offset, size):
        return self.data[offset : min(offset + size, (offset // PIECE + 1) * PIECE)]

    async def aclose(self):
        self.closed = True


@pytest.fixture
def opened():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", os.urandom(5 * PIECE))
        archive.writestr("b", b"the end")
    pieces = Pieces(packed.getvalue())
    with open_file(pieces, portal.shared()) as file:
        yield pieces, file


def test_it_reads_like_a_file(opened):
    pieces, file = opened
    assert file.read(2500) == pieces.data[:2500]
    assert file.seek(-10, io.SEEK_END) == pieces.length - 10
    assert file.read() == pieces.data[-10:]
    assert (file.read(1), file.tell()) == (b"", pieces.length)
    file.seek(PIECE)
    assert file.seek(5, io.SEEK_CUR) == PIECE + 5
    assert file.read(3) == pieces.data[PIECE + 5 : PIECE + 8]
    assert file.raw.name == "data.zip"


def test_libraries_take_it(opened):
    _, file = opened
    with zipfile.ZipFile(file) as archive:
        assert archive.read("b") == b"the end"
        assert archive.testzip() is None


def test_closing_it_ends_the_fetch(opened):
    pieces, file = opened
    with pytest.raises(ValueError, match="no place"):
        file.raw.seek(-1)
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    portal.shared().call(pieces.read_at, 0, 1)  # after what was begun before it
    assert pieces.closed
