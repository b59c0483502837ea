"""How fast is the directory? 60 peers in 4 processes on loopback, and what a SIGKILL of a third of them costs.

Each process runs its share of the peers over the real transport. A get reads a key that another process's peer has
published. Beside it, in the same run, where they can be had: `kademlia` from PyPI with 50 nodes in one process (no
encryption, no signatures, UDP), and PyPI's `hivemind`, with 8 peers in as many processes. Each lies in a virtual
environment of its own: `DHT_KADEMLIA` and `DHT_HIVEMIND` name their interpreters; without them, they are looked for in
this environment.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from typing import Any

import trio
from _harness import Figures, Options, median, quantile, run

PROCESSES = 4
PEERS = 60
LISTEN = ("/ip4/127.0.0.1/tcp/0",)
LIFETIME = 3600.0
WARM_UP = 4
GETS_AT_ONCE = 40
KILLED = 0.3
PATIENCE = 120.0
_SPAWN = multiprocessing.get_context("spawn")

KADEMLIA = """
import asyncio, logging, sys, time
from kademlia.network import Server
async def main(nodes, count):
    logging.disable(logging.CRITICAL)
    servers = []
    for number in range(nodes):
        server = Server(); await server.listen(20500 + number, "127.0.0.1"); servers.append(server)
        if number: await server.bootstrap([("127.0.0.1", 20500)])
    stores, gets = [], []
    for number in range(count):
        started = time.perf_counter(); await servers[number % nodes].set(f"key {number}", "v" * 200)
        stores.append(time.perf_counter() - started)
    for number in range(count):
        started = time.perf_counter()
        assert await servers[(number * 7 + 3) % nodes].get(f"key {number}")
        gets.append(time.perf_counter() - started)
    for server in servers: server.stop()
    print(sorted(stores)[count // 2], sorted(gets)[count // 2], sorted(gets)[int(count * 0.99)])
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""

HIVEMIND = """
import sys, time
import hivemind
from hivemind.utils.timed_storage import get_dht_time
if __name__ == "__main__":
    peers, count = int(sys.argv[1]), int(sys.argv[2])
    dhts = [hivemind.DHT(start=True)]
    for _ in range(peers - 1):
        dhts.append(hivemind.DHT(initial_peers=dhts[0].get_visible_maddrs(), start=True))
    stores, gets = [], []
    for number in range(count):
        started = time.perf_counter()
        assert dhts[number % peers].store(f"key {number}", b"v" * 200, get_dht_time() + 600)
        stores.append(time.perf_counter() - started)
    for number in range(count):
        started = time.perf_counter()
        assert dhts[(number * 3 + 1) % peers].get(f"key {number}", latest=True)
        gets.append(time.perf_counter() - started)
    for dht in dhts: dht.shutdown()
    print(sorted(stores)[count // 2], sorted(gets)[count // 2], sorted(gets)[int(count * 0.99)])
"""


def measure(options: Options) -> Figures:
    """The directory, its targets, and the others beside it."""
    figures = Figures()
    count = options.pick(full=200, quick=40)
    with Hive(PEERS, PROCESSES) as hive:
        figures.row("peers ready", hive.started, "s")
        _claim_lookups(figures, hive, count)
        _claim_deaths(figures, hive, count)
    _beside(figures, "kademlia 2.2 (PyPI), 50 nodes in one process", "kademlia", KADEMLIA, (50, count))
    _beside(figures, "hivemind (PyPI), 8 processes", "hivemind", HIVEMIND, (8, count))
    return figures


def _claim_lookups(figures: Figures, hive: Hive, count: int) -> None:
    """What a store and a get take; first among peers that have hardly met, then in a hive that has run for a while."""
    cold = [f"cold key {number}" for number in range(count // 4)]
    stores = [hive.ask(number % PROCESSES, "publish", key) for number, key in enumerate(cold)]
    gets = [hive.ask((number + 1) % PROCESSES, "get", key) for number, key in enumerate(cold)]
    figures.row("store by a peer that has just joined, p50", 1000 * median(stores), "ms")
    figures.row("get by a peer that has just joined, p50", 1000 * median(gets), "ms")
    for number in range(PEERS * WARM_UP):
        hive.ask(number % PROCESSES, "publish", f"warm key {number}")
    stores = [hive.ask(number % PROCESSES, "publish", f"key {number}") for number in range(count)]
    gets = [hive.ask((number + 1) % PROCESSES, "get", f"key {number}") for number in range(count)]
    missing = [hive.ask((number + 1) % PROCESSES, "miss", f"nothing {number}") for number in range(count // 4)]
    figures.row("get of a key that nobody uses, p50", 1000 * median(missing), "ms")
    figures.row("requests a get", hive.requests_of_last("get"), "requests")
    figures.row("requests a store", hive.requests_of_last("publish"), "requests")
    figures.claim("get, p50", 1000 * median(gets), "ms", at_most=8)
    figures.claim("get, p99", 1000 * quantile(gets, 0.99), "ms", at_most=50)
    figures.claim("store, p50", 1000 * median(stores), "ms", at_most=15)


def _claim_deaths(figures: Figures, hive: Hive, count: int) -> None:
    """Kills 30 % of the peers, in a process of their own each as far as that goes, and reads at once."""
    hive.kill_some()
    keys = random.Random(1).sample([f"key {number}" for number in range(count)], min(GETS_AT_ONCE, count))
    found, seconds = hive.ask_all(keys)
    figures.claim(f"{len(keys)} concurrent gets after a SIGKILL of 30 %", seconds, "s", at_most=3)
    figures.claim("found of these", 100 * found / len(keys), "%", at_least=99.9)


class Hive:
    """Processes with peers: those that live, and one for those that are to be killed at once.

    The last process holds 30 % of the peers, the others the rest, so that one SIGKILL is what it says.
    """

    def __init__(self, peers: int, processes: int) -> None:
        doomed = int(peers * KILLED)
        shares = [(peers - doomed) // (processes - 1)] * (processes - 1)
        shares[0] += peers - doomed - sum(shares)
        self._shares = [*shares, doomed]
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._requests: dict[str, list[float]] = {}
        self.started = 0.0

    def __enter__(self) -> Hive:
        began = time.perf_counter()
        seed = None
        for share in self._shares:
            here, there = _SPAWN.Pipe()
            process = _SPAWN.Process(target=serve, args=(there, share, seed), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)
            ready = self._receive(here)
            seed = seed or ready
        self.started = time.perf_counter() - began
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def ask(self, number: int, what: str, key: str) -> float:
        """Has a peer of a process do something; returns the seconds that it took there."""
        self._pipes[number].send((what, [key]))
        ((found, seconds, requests),) = self._receive(self._pipes[number])
        if found != (what != "miss"):
            raise SystemExit(f"{what} of {key!r} went wrong")
        self._requests.setdefault(what, []).append(requests)
        return float(seconds)

    def requests_of_last(self, what: str) -> float:
        """Requests that it took at the median."""
        return median(self._requests[what])

    def kill_some(self) -> None:
        """Ends the last process without a word."""
        os.kill(self._processes[-1].pid, signal.SIGKILL)
        self._processes[-1].join()
        self._pipes.pop()

    def ask_all(self, keys: Sequence[str]) -> tuple[int, float]:
        """Gets many keys at once, spread over the processes; returns how many were found, and the seconds."""
        began = time.perf_counter()
        for number, pipe in enumerate(self._pipes):
            pipe.send(("get", list(keys[number :: len(self._pipes)])))
        answers = [answer for pipe in self._pipes for answer in self._receive(pipe)]
        return sum(found for found, _, _ in answers), time.perf_counter() - began

    @staticmethod
    def _receive(pipe: Connection) -> Any:
        if not pipe.poll(PATIENCE):
            raise SystemExit("a process of the hive has stopped answering")
        return pipe.recv()


def serve(pipe: Connection, share: int, seed: Any) -> None:
    """One process of the hive."""
    trio.run(_serve, pipe, share, seed)


async def _serve(pipe: Connection, share: int, seed: Any) -> None:
    from hivemind_p2p.dht.service import DirectoryService
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.router import Router
    from hivemind_p2p.net.transport import open_transport
    from hivemind_p2p.types import PeerInfo

    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        peers: list[tuple[DirectoryService, Any]] = []
        for _ in range(share):
            identity = Identity.generate()
            transport = await stack.enter_async_context(open_transport(identity, LISTEN))
            router = Router(transport, nursery)
            seeds = [PeerInfo(*seed)] if seed else []
            for known in seeds:
                router.learn(known)
            directory = DirectoryService(router, identity, clock=time.time, seeds=seeds)
            await nursery.start(directory.run)
            peers.append((directory, router))
            seed = seed or (identity.peer_id, transport.addresses)
        await trio.to_thread.run_sync(pipe.send, seed)
        turn = 0
        while True:
            what, keys = await trio.to_thread.run_sync(pipe.recv)
            answers: list[tuple[bool, float, int]] = []
            async with trio.open_nursery() as work:
                for key in keys:
                    turn += 1
                    work.start_soon(_do, peers[turn % len(peers)][0], what, key, answers)
            await trio.to_thread.run_sync(pipe.send, answers)


async def _do(directory: Any, what: str, key: str, answers: list[tuple[bool, float, int]]) -> None:
    before = directory.statistics().requests
    started = time.perf_counter()
    if what == "publish":
        await directory.publish(key, b"v" * 200, lifetime=LIFETIME)
        found = True
    else:
        found = bool(await directory.lookup(key))
    answers.append((found, time.perf_counter() - started, directory.statistics().requests - before))


def _beside(figures: Figures, name: str, package: str, code: str, arguments: tuple[int, int]) -> None:
    """Runs another project's DHT the same way, if it is installed somewhere."""
    python = os.environ.get(f"DHT_{package.upper()}", sys.executable)
    try:
        done = subprocess.run(
            [python, "-c", code, *map(str, arguments)],
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        figures.row(name, "cannot be had here: " + output.strip().rpartition("\n")[2][-80:])
        return
    store, get, slowest = map(float, done.stdout.split()[-3:])
    figures.row(f"{name}: store, p50", 1000 * store, "ms")
    figures.row(f"{name}: get, p50", 1000 * get, "ms")
    figures.row(f"{name}: get, p99", 1000 * slowest, "ms")


if __name__ == "__main__":
    run(__doc__, measure)
