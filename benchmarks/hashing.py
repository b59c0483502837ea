"""How fast is a content hashed, and how much memory does its metainfo take?

Hashing: every file of a folder into its BitTorrent v2 hash tree, in all cores, as `share` does it, beside
`hashlib.sha256` over buffers of 1 MiB that lie in memory already, in as many threads. Both in turns, several times.
Memory: the metainfo of 100 GB of content, made up, is built, parsed and picked from, in a process of its own that has
loaded what a peer that shares has loaded.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from hashlib import sha256
from pathlib import Path

from _harness import Figures, Options, fresh_python, median, run

SHAPES = (
    ("25 files of 4 GB", 25, 4 << 20),
    ("1 file, 400,000 pieces", 1, 256 << 10),
    ("100,000 files", 100_000, 4 << 20),
)
MOST_MEBIBYTES = 250

METAINFO = r"""
import os, re, sys
import libp2p.host.basic_host, hivemind_p2p.net.transport, hivemind_p2p.peer
from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.hashing import HASH
from hivemind_p2p.bt.metainfo_codec import HashedFile, build, parse
from hivemind_p2p.bt.picker import PiecePicker

def peak():
    # Not getrusage: its maximum begins with what the process that started this one had.
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024

files, piece_length = int(sys.argv[1]), int(sys.argv[2])
length, loaded = 100 * 10**9 // files, peak()
layer = os.urandom(-(-length // piece_length) * HASH)
made_up = [
    HashedFile((f"folder-{n // 1000:03d}", f"file-{n:06d}.bin"), length, os.urandom(HASH) + layer[HASH:])
    for n in range(files)
]
encoded = build("made-up", piece_length, made_up).encode()
del made_up, layer
manifest = parse(encoded)
picker, held = PiecePicker(manifest.pieces, range(manifest.pieces)), Bitfield.full(manifest.pieces)
while picked := picker.pick(held, 1024):
    for piece in picked:
        manifest.piece(piece)
        picker.stored(piece)
assert picker.missing == 0 and "torch" not in sys.modules
print(loaded, peak(), len(encoded))
"""


def measure(options: Options) -> Figures:
    """Both questions."""
    figures = Figures()
    _hashing(figures, megabytes=options.pick(full=2048, quick=256), rounds=options.pick(full=7, quick=3))
    for what, files, piece_length in SHAPES:
        loaded, peak, size = map(float, fresh_python(METAINFO, str(files), str(piece_length)).split())
        figures.row(f"memory before, {what}", loaded, "MiB")
        figures.row(f"manifest of 100 GB, {what}", size / 1e6, "MB")
        figures.claim(f"memory with the metainfo of 100 GB, {what}", peak, "MiB", at_most=MOST_MEBIBYTES)
    return figures


def _hashing(figures: Figures, *, megabytes: int, rounds: int) -> None:
    cores = os.cpu_count() or 1
    plain, ours, small = [], [], []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        large = _file(Path(folder) / "large", megabytes)
        many = Path(folder) / "many"
        many.mkdir()
        data = os.urandom(1 << 18)
        for number in range(megabytes * 4):
            (many / f"{number:05d}").write_bytes(data)
        for _ in range(rounds):
            plain.append(_plain(megabytes, cores))
            ours.append(_ours(large, megabytes))
            plain.append(_plain(megabytes, cores))
            small.append(_ours(many, megabytes))
    figures.row(f"hashlib.sha256 over 1 MiB buffers, {cores} threads", median(plain), "MiB/s")
    figures.row(f"a file of {megabytes} MiB", median(ours), "MiB/s")
    figures.row(f"{megabytes * 4} files of 256 KiB", median(small), "MiB/s")
    figures.claim("hashing a large file : hashlib.sha256", median(ours) / median(plain), "times", at_least=0.8)
    figures.claim("hashing many files : hashlib.sha256", median(small) / median(plain), "times")


def _file(path: Path, megabytes: int) -> Path:
    data = os.urandom(1 << 24)
    with path.open("wb") as file:
        for _ in range(megabytes >> 4):
            file.write(data)
    return path


def _plain(megabytes: int, cores: int) -> float:
    """MiB a second of what nobody can beat."""
    buffer = os.urandom(1 << 20)

    def work() -> None:
        for _ in range(megabytes // cores):
            sha256(buffer).digest()

    threads = [threading.Thread(target=work) for _ in range(cores)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return megabytes // cores * cores / (time.perf_counter() - started)


def _ours(path: Path, megabytes: int) -> float:
    """MiB a second from a path to its manifest, the files in the page cache."""
    import trio

    from hivemind_p2p.bt.concurrency import in_thread
    from hivemind_p2p.bt.hash_book import HashBook
    from hivemind_p2p.bt.sharing import make_manifest, scan

    async def share() -> float:
        started = time.perf_counter()
        await make_manifest(scan(path), book=HashBook(None), run_sync=in_thread, helpers=True)
        return megabytes / (time.perf_counter() - started)

    return trio.run(share)


if __name__ == "__main__":
    run(__doc__, measure)
