"""kill -9 in the middle of writing: what is recorded is on the disk, and what is on the disk is right."""

import signal
import subprocess
import sys

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
                assert writer.stdout.readline()
                told += 1
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
