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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio
from _harness import Figures, Options, median, run

CHUNK = 1 << 18
RECEIVERS = 4
PLAIN = "plain TCP and SHA-256"
_SPAWN = multiprocessing.get_context("spawn")


def measure(options: Options) -> Figures:
    """Sends files of two sizes to one receiver, and one to four."""
    figures = Figures()
    rounds = options.pick(full=3, quick=1)
    small, large = options.pick(full=256, quick=64), options.pick(full=1024, quick=0)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        _compare(figures, folder, small, receivers=1, rounds=rounds, at_least=2)
        if large:
            _compare(figures, folder, large, receivers=1, rounds=max(1, rounds - 1), at_least=2)
        _compare(figures, folder, small, receivers=RECEIVERS, rounds=rounds, at_least=1.5)
    return figures


def _compare(figures: Figures, folder: Path, megabytes: int, *, receivers: int, rounds: int, at_least: float) -> None:
    """Races in turns; the claims are ratios of the medians."""
    source = _make(folder / f"{megabytes}.bin", megabytes)
    races: dict[str, list[_Outcome]] = {"libtorrent": [], "swarm": []}
    if receivers == 1:
        races[PLAIN] = []
    for _ in range(rounds):
        for name, outcomes in races.items():
            _touch_memory(folder / "touched", megabytes * receivers)
            outcomes.append(_RACES[name](source, receivers))
    what = f"1 to {receivers}, {megabytes} MiB"
    rates = {}
    for name, outcomes in races.items():
        rates[name] = megabytes * receivers / median([outcome.seconds for outcome in outcomes])
        figures.row(f"{name}, {what}, all together", rates[name], "MiB/s")
        for side in ("receivers", "seed"):
            used = median([getattr(outcome, f"{side}_cpu") for outcome in outcomes])
            figures.row(f"{name}, {what}, {side}", used / megabytes / receivers * 1024, "s of a core/GiB")
    figures.claim(f"swarm : libtorrent, {what}", rates["swarm"] / rates["libtorrent"], "times", at_least=at_least)
    if receivers == 1:
        figures.claim(f"swarm : {PLAIN}, {what}", rates["swarm"] / rates[PLAIN], "times")
        return
    copies = max(outcome.sent for outcome in races["swarm"]) / source.stat().st_size
    figures.claim(f"copies that the seed sends to {receivers}, at worst", copies, "copies", at_most=1.5)


def _make(path: Path, megabytes: int) -> Path:
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
    return path


def _touch_memory(path: Path, megabytes: int) -> None:
    """Has the system use as much memory for files as the race will, and free it again.

    Memory that a virtual machine has not touched for a while costs 2 s/GiB when it is written to, in the host, whoever
    writes: ten times as much as what is measured here, and by chance more in one race than in the next.
    """
    _make(path, megabytes)
    path.unlink()


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


@dataclass(frozen=True)
class _Outcome:
    """How a race went.

    Attributes:
        seconds: Until the last receiver had everything.
        receivers_cpu: Seconds of a core that all receivers used meanwhile.
        seed_cpu: The same of the seed.
        sent: Bytes that the seed sent.
    """

    seconds: float
    receivers_cpu: float
    seed_cpu: float = 0.0
    sent: int = 0


def _race(receivers: list[Connection], seed: Connection | None = None) -> _Outcome:
    before = _ask(seed)[0] if seed else 0.0
    started = time.perf_counter()
    for pipe in receivers:
        pipe.send("go")
    used = sum(pipe.recv() for pipe in receivers)
    seconds = time.perf_counter() - started
    after, sent = _ask(seed) if seed else (0.0, 0)
    return _Outcome(seconds, used, after - before, sent)


def _ask(seed: Connection) -> tuple[float, int]:
    """Seconds of a core that a seed has used so far, and bytes that it has sent."""
    seed.send("report")
    cpu, sent = seed.recv()
    return cpu, sent


# -- the swarm -------------------------------------------------------------------------------------------------------


def _swarm(source: Path, receivers: int) -> _Outcome:
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
        outcome = _race(pipes, seed)
        processes.stop()
        _check(source, [folder / source.name for folder in folders])
    return outcome


def _share(pipe: Connection, bootstrap: str, source: str) -> None:
    import hivemind_p2p as hm

    async def share() -> None:
        async with hm.open_hive(bootstrap) as hive:
            pipe.send(await hive.share(source))
            while await trio.to_thread.run_sync(pipe.recv) != "stop":
                pipe.send((time.process_time(), hive.peer.content.statistics().uploaded_bytes))

    trio.run(share)


def _fetch(pipe: Connection, bootstrap: str, link: str, folder: str) -> None:
    import hivemind_p2p as hm

    async def fetch() -> None:
        async with hm.open_hive(bootstrap) as hive:
            pipe.send("ready")
            await trio.to_thread.run_sync(pipe.recv)
            before = time.process_time()
            await hive.fetch(link, folder)
            pipe.send(time.process_time() - before)
            await trio.to_thread.run_sync(pipe.recv)

    trio.run(fetch)


# -- libtorrent ------------------------------------------------------------------------------------------------------


def _libtorrent(source: Path, receivers: int) -> _Outcome:
    import libtorrent

    made = libtorrent.create_torrent(
        libtorrent.list_files(str(source)), _piece_length(source), libtorrent.create_torrent.v2_only
    )
    libtorrent.set_piece_hashes(made, str(source.parent))
    torrent = libtorrent.bencode(made.generate())
    processes = _Processes()
    with tempfile.TemporaryDirectory(prefix="libtorrent-", dir=source.parent) as name:
        seed = processes.start(_torrent_seed, torrent, str(source.parent))
        port = seed.recv()
        folders = [Path(name) / str(number) for number in range(receivers)]
        pipes = [processes.start(_torrent_receiver, torrent, str(folder)) for folder in folders]
        ports = [port, *(pipe.recv() for pipe in pipes)]
        for pipe in pipes:
            pipe.send(ports)
        outcome = _race(pipes, seed)
        processes.stop()
        _check(source, [folder / source.name for folder in folders])
    return outcome


def _piece_length(source: Path) -> int:
    from hivemind_p2p.bt.metainfo import choose_piece_length

    return choose_piece_length(source.stat().st_size)


def _torrent_session() -> Any:
    import libtorrent

    off = ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_outgoing_utp", "enable_incoming_utp")
    return libtorrent.session(
        {
            **dict.fromkeys(off, False),
            "listen_interfaces": "127.0.0.1:0",
            "allow_multiple_connections_per_ip": True,
            "unchoke_slots_limit": -1,
            "send_buffer_watermark": 4 << 20,
        }
    )


def _torrent(torrent: bytes, folder: str) -> Any:
    import libtorrent

    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(libtorrent.bdecode(torrent))
    parameters.save_path = folder
    return parameters


def _torrent_seed(pipe: Connection, torrent: bytes, folder: str) -> None:
    import libtorrent

    session = _torrent_session()
    parameters = _torrent(torrent, folder)
    parameters.flags |= libtorrent.torrent_flags.seed_mode
    handle = session.add_torrent(parameters)
    pipe.send(_port(session))
    while pipe.recv() != "stop":
        pipe.send((time.process_time(), handle.status().total_payload_upload))


def _torrent_receiver(pipe: Connection, torrent: bytes, folder: str) -> None:
    Path(folder).mkdir()
    session = _torrent_session()
    parameters = _torrent(torrent, folder)
    pipe.send(_port(session))
    ports = pipe.recv()
    pipe.recv()
    before = time.process_time()
    handle = session.add_torrent(parameters)
    for port in ports:
        if port != session.listen_port():
            handle.connect_peer(("127.0.0.1", port))
    while not handle.status().is_seeding:
        time.sleep(0.002)
    pipe.send(time.process_time() - before)
    pipe.recv()


def _port(session: Any) -> int:
    while not session.listen_port():
        time.sleep(0.01)
    return int(session.listen_port())


# -- plain TCP -------------------------------------------------------------------------------------------------------


def _over_tcp(source: Path, _: int) -> _Outcome:
    processes = _Processes()
    target = source.with_suffix(".tcp")
    sender = processes.start(_send, str(source))
    receiver = processes.start(_receive, str(target), sender.recv())
    assert receiver.recv() == "ready"
    outcome = _race([receiver], sender)
    processes.stop()
    _check(source, [target])
    target.unlink()
    return outcome


def _send(pipe: Connection, source: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        pipe.recv()
        pipe.send((time.process_time(), 0))
        stream, _ = server.accept()
        with stream, Path(source).open("rb") as file:
            sent = stream.sendfile(file)
    while pipe.recv() != "stop":
        pipe.send((time.process_time(), sent))


def _receive(pipe: Connection, target: str, port: int) -> None:
    pipe.send("ready")
    pipe.recv()
    before = time.process_time()
    digest = hashlib.sha256()
    with socket.create_connection(("127.0.0.1", port)) as stream, Path(target).open("wb") as file:
        while chunk := stream.recv(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    pipe.send(time.process_time() - before)
    pipe.recv()


_RACES: dict[str, Callable[[Path, int], _Outcome]] = {"libtorrent": _libtorrent, "swarm": _swarm, PLAIN: _over_tcp}


if __name__ == "__main__":
    run(__doc__, measure)
