"""How fast does a content travel from one peer to another, beside plain TCP that hashes what it receives?

Share and fetch: a hash tree over the file, pieces over an encrypted connection, each block checked, written to disk
and announced. Plain TCP: one process sends the file, the other hashes it with SHA-256 and writes it.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from _harness import Figures, Options, run

CHUNK = 1 << 18
_SPAWN = multiprocessing.get_context("spawn")


def measure(options: Options) -> Figures:
    """Sends one file both ways."""
    megabytes = options.pick(full=256, quick=64)
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        source = Path(folder) / "source.bin"
        with source.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
        tcp = _over_tcp(source, Path(folder) / "tcp.bin")
        share, fetch = _over_the_swarm(source, Path(folder) / "fetched")
    figures.row(f"share (hash) {megabytes} MiB", megabytes / share, "MiB/s")
    figures.row(f"fetch {megabytes} MiB", megabytes / fetch, "MiB/s")
    figures.row(f"plain TCP and SHA-256, {megabytes} MiB", megabytes / tcp, "MiB/s")
    figures.claim("fetch, seconds : plain TCP and SHA-256", fetch / tcp, "times")
    figures.claim("share and fetch, seconds : plain TCP and SHA-256", (share + fetch) / tcp, "times")
    return figures


def _over_tcp(source: Path, target: Path) -> float:
    here, there = _SPAWN.Pipe()
    sender = _SPAWN.Process(target=_send, args=(str(source), there))
    sender.start()
    port = here.recv()
    started = time.perf_counter()
    digest = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", port)) as stream, target.open("wb") as file:
        while chunk := stream.recv(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    seconds = time.perf_counter() - started
    sender.join()
    with source.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
    return seconds


def _send(source: str, pipe: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        stream, _ = server.accept()
        with stream, Path(source).open("rb") as file:
            stream.sendfile(file)


def _over_the_swarm(source: Path, folder: Path) -> tuple[float, float]:
    """Seconds for sharing in another process, and for fetching it here."""
    import hivemind_p2p as hm

    with hm.local_hive(peers=0) as hive:
        here, there = _SPAWN.Pipe()
        sharer = _SPAWN.Process(target=_share, args=(hive.nodes.bootstrap_address, str(source), there))
        sharer.start()
        link, share = here.recv()
        started = time.perf_counter()
        fetched = hive.fetch(link, to=folder)
        fetch = time.perf_counter() - started
        here.send("done")
        sharer.join()
        assert fetched.read_bytes() == source.read_bytes()
    return share, fetch


def _share(bootstrap: str, source: str, pipe: Connection) -> None:
    import hivemind_p2p as hm

    with hm.connect(bootstrap) as hive:
        started = time.perf_counter()
        link = hive.share(source)
        pipe.send((link, time.perf_counter() - started))
        pipe.recv()


if __name__ == "__main__":
    run(__doc__, measure)
