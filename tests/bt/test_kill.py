"""kill -9 in the middle of writing: what is recorded is on the disk, and what is on the disk is right."""

import contextlib
import os
import random
import signal
import subprocess
import sys

import pytest

from hivemind_p2p.bt import storage
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.bt.piece_log import PieceLog
from hivemind_p2p.bt.storage import ContentStore
from tests.bt.swarms import contents_of, make_folder, manifest_of, some_bytes

PIECES = 400

WRITER = """
import sys
from pathlib import Path
from hivemind_p2p.bt.metainfo_codec import parse
from hivemind_p2p.bt.piece_log import PieceLog
from hivemind_p2p.bt.storage import ContentStore

folder, data = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
manifest = parse((folder / "manifest").read_bytes())
store = ContentStore(manifest, folder, PieceLog(folder / "pieces"))
store.prepare(manifest.files)
for number in range(manifest.pieces):
    if number not in store.held:
        span = manifest.piece(number)
        store.write(number, data[span.offset : span.offset + span.length])
        print(number, flush=True)
"""


def test_a_killed_writer_loses_at_most_the_piece_in_flight(tmp_path):
    data = some_bytes(PIECES * BLOCK)
    original = make_folder(tmp_path / "original" / "content", {"data": data})
    manifest = manifest_of(original, BLOCK)
    (tmp_path / "manifest").write_bytes(manifest.encode())
    told = 0
    for stop_after in (1, 37, 90):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(original / "data")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(stop_after):
                told += bool(writer.stdout.readline())  # none where a busy machine let the one before write all
            writer.send_signal(signal.SIGKILL)
            told += len(writer.stdout.readlines())
        store = ContentStore(manifest, tmp_path, PieceLog(tmp_path / "pieces"))
        assert told <= len(store.held) <= told + 3, "each kill may have come between the record and its line"
        for number in store.held:
            assert store.read(number, 0, BLOCK) == data[number * BLOCK : (number + 1) * BLOCK]
    store.prepare(manifest.files)
    for number in range(PIECES):
        if number not in store.held:
            assert store.write(number, data[number * BLOCK : (number + 1) * BLOCK])
    assert contents_of(store.path) == {"data": data}


HALFWAY = """
import os, signal, sys
from pathlib import Path
from hivemind_p2p.bt import files, storage
from hivemind_p2p.bt.metainfo_codec import parse
from hivemind_p2p.bt.piece_log import PieceLog
from hivemind_p2p.bt.storage import ContentStore

folder, data, stop = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3])
manifest = parse((folder / "manifest").read_bytes())
store = ContentStore(manifest, folder, PieceLog(folder / "pieces"))
store.prepare(manifest.files)

def die(descriptor, view, offset, path):
    os.pwrite(descriptor, view[: stop], offset)
    os.kill(os.getpid(), signal.SIGKILL)

for number in range(20):
    if number == 19:
        storage.write_all = die
    store.write(number, data[number * 16384 : (number + 1) * 16384])
"""


@pytest.mark.parametrize("stop", [0, 5000, BLOCK])
def test_after_a_kill_in_mid_write_nothing_that_was_recorded_is_read_again(tmp_path, stop, monkeypatch):
    data = some_bytes(PIECES * BLOCK)
    original = make_folder(tmp_path / "original" / "content", {"data": data})
    manifest = manifest_of(original, BLOCK)
    (tmp_path / "manifest").write_bytes(manifest.encode())
    command = [sys.executable, "-c", HALFWAY, str(tmp_path), str(original / "data"), str(stop)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with monkeypatch.context() as patch:
        patch.setattr(storage, "verify_piece", _never)
        store = ContentStore(manifest, tmp_path, PieceLog(tmp_path / "pieces"))
        store.prepare(manifest.files)
        assert list(store.held) == list(range(19))
        assert store.intact(range(19))
        assert store.read(3, 0, 10) == data[3 * BLOCK : 3 * BLOCK + 10]
    assert store.write(19, data[19 * BLOCK : 20 * BLOCK])
    assert ContentStore(manifest, tmp_path, PieceLog(tmp_path / "pieces")).intact(range(20))


def test_a_change_by_others_after_a_kill_is_not_forgiven(tmp_path):
    data = some_bytes(PIECES * BLOCK)
    original = make_folder(tmp_path / "original" / "content", {"data": data})
    manifest = manifest_of(original, BLOCK)
    (tmp_path / "manifest").write_bytes(manifest.encode())
    command = [sys.executable, "-c", HALFWAY, str(tmp_path), str(original / "data"), "5000"]
    subprocess.run(command, check=False)
    path = tmp_path / "content" / "data"
    with path.open("r+b") as file:
        file.write(b"damage")
    later = (tmp_path / "pieces").stat().st_mtime_ns + storage.LONGEST_WRITE + 1
    os.utime(path, ns=(later, later))
    store = ContentStore(manifest, tmp_path, PieceLog(tmp_path / "pieces"))
    assert not store.intact([1])
    assert store.read(0, 0, 5) is None
    store.prepare(manifest.files)
    assert list(store.held) == list(range(1, 19))


def _never(*arguments, **named):
    raise AssertionError("a piece was read again")


def test_kills_at_random_moments_lose_nothing_that_was_recorded(tmp_path):
    data = some_bytes(PIECES * BLOCK)
    original = make_folder(tmp_path / "original" / "content", {"data": data})
    manifest = manifest_of(original, BLOCK)
    (tmp_path / "manifest").write_bytes(manifest.encode())
    moments = random.Random(11)
    told: set[int] = set()
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(original / "data")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                writer.wait(moments.uniform(0.0, 0.01))
            writer.send_signal(signal.SIGKILL)
            told |= {int(line) for line in [first, *writer.stdout.readlines()] if line.endswith(b"\n") and line.strip()}
        store = ContentStore(manifest, tmp_path, PieceLog(tmp_path / "pieces"))
        assert told <= set(store.held)
        for number in store.held:
            assert store.read(number, 0, BLOCK) == data[number * BLOCK : (number + 1) * BLOCK]
    assert len(told) > 8
