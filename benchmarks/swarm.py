"""How fast does a content travel to one peer and to four, beside libtorrent and beside plain TCP with SHA-256?

All peers are processes of their own on loopback, in one run and in turns: libtorrent (the library behind many
BitTorrent clients, C++; TCP without encryption), the swarm (Noise, checked against the same hash tree), and a plain
TCP stream that the receiver hashes and writes: what this machine can do at best. The clock runs from the word "go"
(everybody is up; the receivers know the content's name and one peer) until the last receiver has everything. Files
are compared by SHA-256 afterwards.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import trio
from _harness import Figures, Options, median, run

CHUNK = 1 << 18
RECEIVERS = 4
_SPAWN = multiprocessing.get_context("spawn")


def measure(options: Options) -> Figures:
    """Sends files of two sizes to one receiver, and one to four."""
    figures = Figures()
    rounds = options.pick(full=3, quick=1)
    small, large = options.pick(full=256, quick=64), options.pick(full=1024, quick=0)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        _one_to_one(figures, folder, small, rounds)
        if large:
            _one_to_one(figures, folder, large, 1)
        _one_to_many(figures, folder, small, rounds)
    return figures


def _one_to_one(figures: Figures, folder: Path, megabytes: int, rounds: int) -> None:
    source = _make(folder / f"{megabytes}.bin", megabytes)
    times: dict[str, list[float]] = {"libtorrent": [], "swarm": [], "plain TCP and SHA-256": []}
    for _ in range(rounds):
        times["libtorrent"].append(_libtorrent(source, 1))
        times["swarm"].append(_swarm(source, 1)[0])
        times["plain TCP and SHA-256"].append(_over_tcp(source))
    rates = {name: megabytes / median(seconds) for name, seconds in times.items()}
    for name, rate in rates.items():
        figures.row(f"{name}, 1 to 1, {megabytes} MiB", rate, "MiB/s")
    figures.claim(
        f"swarm : libtorrent, 1 to 1, {megabytes} MiB", rates["swarm"] / rates["libtorrent"], "times", at_least=2
    )
    figures.claim(
        f"swarm : plain TCP and SHA-256, 1 to 1, {megabytes} MiB",
        rates["swarm"] / rates["plain TCP and SHA-256"],
        "times",
    )


def _one_to_many(figures: Figures, folder: Path, megabytes: int, rounds: int) -> None:
    source = _make(folder / f"{megabytes}.bin", megabytes)
    theirs, ours, copies = [], [], []
    for _ in range(rounds):
        theirs.append(_libtorrent(source, RECEIVERS))
        seconds, sent = _swarm(source, RECEIVERS)
        ours.append(seconds)
        copies.append(sent)
    rates = {"libtorrent": megabytes * RECEIVERS / median(theirs), "swarm": megabytes * RECEIVERS / median(ours)}
    for name, rate in rates.items():
        figures.row(f"{name}, 1 to {RECEIVERS}, {megabytes} MiB, all together", rate, "MiB/s")
    ratio = rates["swarm"] / rates["libtorrent"]
    figures.claim(f"swarm : libtorrent, 1 to {RECEIVERS}, {megabytes} MiB", ratio, "times", at_least=1.5)
    figures.claim(f"copies that the seed sends to {RECEIVERS}, at worst", max(copies), "copies", at_most=1.5)


def _make(path: Path, megabytes: int) -> Path:
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
    return path


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _check(source: Path, copies: list[Path]) -> None:
    expected = _digest(source)
    assert all(_digest(copy) == expected for copy in copies), "a copy is not what was sent"


class _Processes:
    """A seed and receivers, each told `go` and answering when it is done."""

    def __init__(self) -> None:
        self._running: list[tuple[Connection, multiprocessing.process.BaseProcess]] = []

    def start(self, target: Callable[..., None], *arguments: object) -> Connection:
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=target, args=(there, *arguments))
        process.start()
        self._running.append((here, process))
        return here

    def stop(self) -> None:
        for pipe, _ in self._running:
            pipe.send("stop")
        for _, process in self._running:
            process.join()


def _race(receivers: list[Connection]) -> float:
    started = time.perf_counter()
    for pipe in receivers:
        pipe.send("go")
    for pipe in receivers:
        assert pipe.recv() == "done"
    return time.perf_counter() - started


# -- the swarm -------------------------------------------------------------------------------------------------------


def _swarm(source: Path, receivers: int) -> tuple[float, float]:
    """Seconds, and how many copies the seed sent."""
    import hivemind_p2p as hm

    processes = _Processes()
    with tempfile.TemporaryDirectory(prefix="swarm-", dir=source.parent) as name, hm.local_hive(peers=0) as hive:
        bootstrap = hive.nodes.bootstrap_address
        seed = processes.start(_share, bootstrap, str(source))
        link = seed.recv()
        folders = [Path(name) / str(number) for number in range(receivers)]
        pipes = [processes.start(_fetch, bootstrap, link, str(folder)) for folder in folders]
        for pipe in pipes:
            assert pipe.recv() == "ready"
        seconds = _race(pipes)
        seed.send("report")
        sent = seed.recv()
        processes.stop()
        _check(source, [folder / source.name for folder in folders])
    return seconds, sent / source.stat().st_size


def _share(pipe: Connection, bootstrap: str, source: str) -> None:
    import hivemind_p2p as hm

    async def share() -> None:
        async with hm.open_hive(bootstrap) as hive:
            pipe.send(await hive.share(source))
            while await trio.to_thread.run_sync(pipe.recv) != "stop":
                pipe.send(hive.peer.content.statistics().uploaded_bytes)

    trio.run(share)


def _fetch(pipe: Connection, bootstrap: str, link: str, folder: str) -> None:
    import hivemind_p2p as hm

    async def fetch() -> None:
        async with hm.open_hive(bootstrap) as hive:
            pipe.send("ready")
            await trio.to_thread.run_sync(pipe.recv)
            await hive.fetch(link, folder)
            pipe.send("done")
            await trio.to_thread.run_sync(pipe.recv)

    trio.run(fetch)


# -- libtorrent ------------------------------------------------------------------------------------------------------


def _libtorrent(source: Path, receivers: int) -> float:
    import libtorrent

    made = libtorrent.create_torrent(
        libtorrent.list_files(str(source)), _piece_length(source), libtorrent.create_torrent.v2_only
    )
    libtorrent.set_piece_hashes(made, str(source.parent))
    torrent = libtorrent.bencode(made.generate())
    processes = _Processes()
    with tempfile.TemporaryDirectory(prefix="libtorrent-", dir=source.parent) as name:
        seed = processes.start(_torrent_session, torrent, str(source.parent), True)
        port = seed.recv()
        folders = [Path(name) / str(number) for number in range(receivers)]
        pipes = [processes.start(_torrent_session, torrent, str(folder), False) for folder in folders]
        ports = [port, *(pipe.recv() for pipe in pipes)]
        for pipe in pipes:
            pipe.send(ports)
        seconds = _race(pipes)
        processes.stop()
        _check(source, [folder / source.name for folder in folders])
    return seconds


def _piece_length(source: Path) -> int:
    from hivemind_p2p.bt.metainfo import choose_piece_length

    return choose_piece_length(source.stat().st_size)


def _torrent_session(pipe: Connection, torrent: bytes, folder: str, seeds: bool) -> None:
    import libtorrent

    Path(folder).mkdir(exist_ok=True)
    off = ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_outgoing_utp", "enable_incoming_utp")
    session = libtorrent.session(
        {
            **dict.fromkeys(off, False),
            "listen_interfaces": "127.0.0.1:0",
            "allow_multiple_connections_per_ip": True,
            "unchoke_slots_limit": -1,
            "send_buffer_watermark": 4 << 20,
        }
    )
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(libtorrent.bdecode(torrent))
    parameters.save_path = folder
    if seeds:
        parameters.flags |= libtorrent.torrent_flags.seed_mode
        session.add_torrent(parameters)
        pipe.send(_port(session))
        pipe.recv()
        return
    pipe.send(_port(session))
    ports = pipe.recv()
    pipe.recv()
    handle = session.add_torrent(parameters)
    for port in ports:
        if port != session.listen_port():
            handle.connect_peer(("127.0.0.1", port))
    while not handle.status().is_seeding:
        time.sleep(0.002)
    pipe.send("done")
    pipe.recv()


def _port(session: object) -> int:
    while not session.listen_port():  # type: ignore[attr-defined]
        time.sleep(0.01)
    return session.listen_port()  # type: ignore[attr-defined, no-any-return]


# -- plain TCP -------------------------------------------------------------------------------------------------------


def _over_tcp(source: Path) -> float:
    processes = _Processes()
    target = source.with_suffix(".tcp")
    sender = processes.start(_send, str(source))
    receiver = processes.start(_receive, str(target), sender.recv())
    assert receiver.recv() == "ready"
    seconds = _race([receiver])
    processes.stop()
    _check(source, [target])
    target.unlink()
    return seconds


def _send(pipe: Connection, source: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        stream, _ = server.accept()
        with stream, Path(source).open("rb") as file:
            stream.sendfile(file)
    pipe.recv()


def _receive(pipe: Connection, target: str, port: int) -> None:
    pipe.send("ready")
    pipe.recv()
    digest = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", port)) as stream, Path(target).open("wb") as file:
        while chunk := stream.recv(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    pipe.send("done")
    pipe.recv()


if __name__ == "__main__":
    run(__doc__, measure)
