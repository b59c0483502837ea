"""What the metainfo of 100 GB takes: measured in a process of its own, with what a peer that shares has loaded."""

import subprocess
import sys

import pytest

MOST_MEBIBYTES = 250

PROGRAM = r"""
import os, re, sys, tempfile
from pathlib import Path
import libp2p.host.basic_host, hivemind_p2p.net.transport, hivemind_p2p.peer
from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.catalogue import Catalogue
from hivemind_p2p.bt.hashing import HASH
from hivemind_p2p.bt.metainfo_codec import HashedFile, build, parse
from hivemind_p2p.bt.picker import PiecePicker

files, piece_length = int(sys.argv[1]), int(sys.argv[2])
length = 100 * 10**9 // files
pieces = -(-length // piece_length)
layer = os.urandom(pieces * HASH)
made_up = [
    HashedFile((f"folder-{n // 1000:03d}", f"file-{n:06d}.bin"), length, os.urandom(HASH) + layer[HASH:])
    for n in range(files)
]
encoded = build("made-up", piece_length, made_up).encode()
del made_up, layer
manifest = parse(encoded)
del encoded
assert manifest.length >= 99 * 10**9
picker, held = PiecePicker(manifest.pieces, range(manifest.pieces)), Bitfield.full(manifest.pieces)
while picked := picker.pick(held, 1024):
    for piece in picked:
        manifest.piece(piece)
        picker.stored(piece)
assert picker.missing == 0
del picker, held
with tempfile.TemporaryDirectory() as folder:
    stamps = {file.path: 5 for file in manifest.files}
    Catalogue(Path(folder)).add(manifest, Path(folder), now=1.0, shared=True, stamps=stamps)
    del manifest, stamps
    (store,) = Catalogue(Path(folder)).load()
assert store.held.complete
assert "torch" not in sys.modules
# Not getrusage: its maximum begins with what the process that started this one had.
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("files", "piece_length"), [(25, 4 << 20), (1, 256 << 10), (40_000, 4 << 20)], ids=["usual", "one file", "small"]
)
def test_the_metainfo_of_100_gigabytes_fits_beside_a_sharing_peer(files, piece_length):
    command = [sys.executable, "-c", PROGRAM, str(files), str(piece_length)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert 0 < float(done.stdout) < MOST_MEBIBYTES
