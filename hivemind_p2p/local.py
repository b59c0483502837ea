"""A whole hive on this machine: a bootstrap and some peers, each a process of its own, and a connection to them.

    with hm.local_hive(peers=3) as hive:
        hive.submit(pow, 2, 10).result()

Everything is bound to loopback and kept in one temporary folder, which goes when the hive is closed.
"""

from __future__ import annotations

import atexit
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hivemind_p2p import config
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.hive import Hive
from hivemind_p2p.net import libp2p_host
from hivemind_p2p.node_process import NodeProcess, interrupts_held_back
from hivemind_p2p.types import parse_bytes

MOST_PEERS = 64
"""More processes than this on one machine only fight for memory."""

CALLER = "you"
"""The username of the account that pays in a local hive."""


class LocalNodes:
    """The processes of a local hive, without a connection to them.

    Args:
        peers: How many peers.
        cpus: Cores that each peer lends.
        memory: Bytes that each lends, or text such as ``"2GiB"``.
        serve_models: Whether they host stages of what is published.
    """

    def __init__(
        self, peers: int = 3, *, cpus: float = 1.0, memory: int | str = "2GiB", serve_models: bool = True
    ) -> None:
        if not 0 <= peers <= MOST_PEERS:
            raise ConfigurationError(f"a local hive can have 0 to {MOST_PEERS} peers, not {peers}")
        self._options = [f"--cpus={cpus:g}", f"--memory={parse_bytes(memory)}"]
        self._options += ["--drain-seconds=0"]  # who closes a hive has no use for what still runs
        self._options += [f"--serve-models={'any' if serve_models else 'none'}"]
        self._password = secrets.token_urlsafe(16)
        self.bootstrap: NodeProcess | None = None
        self.peers: list[NodeProcess] = []
        with interrupts_held_back():
            self.folder = Path(tempfile.mkdtemp(prefix="hivemind-p2p-"))
            atexit.register(self.stop)  # wherever the program ends before it comes to close its hive
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._start(peers)
            undo.pop_all()

    def _start(self, peers: int) -> None:
        with interrupts_held_back():
            self.bootstrap = NodeProcess(
                "hivemind_bootstrap",
                ["--data", str(self.folder / "bootstrap"), "--http", "127.0.0.1:0", "--open-ledger"],
                log=self.folder / "bootstrap.log",
            )
        libp2p_host.preload()  # this program joins as well, and now is when it would only wait
        self.bootstrap.wait_ready()
        for _ in range(peers):
            self.begin_peer()
        for peer in self.peers:
            peer.wait_ready()

    @property
    def bootstrap_address(self) -> str:
        """The bootstrap's multiaddr."""
        assert self.bootstrap is not None
        return str(self.bootstrap.ready["addresses"][0])

    @property
    def http(self) -> str:
        """Where the bootstrap's status page is."""
        assert self.bootstrap is not None
        return str(self.bootstrap.ready["http"])

    def begin_peer(self) -> NodeProcess:
        """Starts one more peer and returns at once; `wait_ready` on it waits until it serves."""
        name = f"peer-{len(self.peers) + 1}"
        place = ["--data", str(self.folder / name), "--name", name, "--bootstrap", self.bootstrap_address]
        with interrupts_held_back():
            peer = NodeProcess(
                "hivemind_p2p",
                [*place, *self._options],
                log=self.folder / f"{name}.log",
                environment=self.credentials(name),
            )
            self.peers.append(peer)
        return peer

    def credentials(self, username: str) -> dict[str, str]:
        """The environment that logs a node in under a name, making the account on first use."""
        return {
            "HIVEMIND_P2P_USERNAME": username,
            "HIVEMIND_P2P_PASSWORD": self._password,
            "HIVEMIND_P2P_REGISTER": "true",
        }

    def caller_settings(self) -> config.Settings:
        """What the program that started the hive joins it with."""
        return config.Settings(
            bootstrap=self.bootstrap_address,
            username=CALLER,
            password=self._password,
            register=True,
            data=self.folder / CALLER,
            name=CALLER,
        )

    def stop(self) -> None:
        """Ends every process, the peers before the bootstrap, and removes the folder; Ctrl-C waits for that."""
        with interrupts_held_back():
            for peer in self.peers:
                peer.begin_stop()
            for peer in self.peers:
                peer.stop()
            if self.bootstrap is not None:
                self.bootstrap.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
            atexit.unregister(self.stop)


class LocalHive(Hive):
    """A hive of processes on this machine, and the connection to it. Made by `local_hive`.

    Attributes:
        nodes: The processes, to be looked at, killed or added to.
    """

    def __init__(self, nodes: LocalNodes) -> None:
        self.nodes = nodes
        with ExitStack() as undo:
            undo.callback(nodes.stop)
            super().__init__(nodes.caller_settings())
            undo.pop_all()

    def close(self) -> None:
        """Leaves the hive and ends its processes."""
        try:
            super().close()
        finally:
            self.nodes.stop()

    def __repr__(self) -> str:
        alive = sum(peer.alive for peer in self.nodes.peers)
        return f"<LocalHive: {alive} peers, status page at {self.nodes.http}>"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import hive_html

        if not any(peer.alive for peer in self.nodes.peers):
            return hive_html(self, title="Local hive", note="closed")
        note = f"{sum(peer.alive for peer in self.nodes.peers)} peers, each a process of its own, on this machine"
        return hive_html(self, title="Local hive", note=note, status_page=self.nodes.http)


def local_hive(peers: int = 3, **options: Any) -> LocalHive:
    """Starts a hive of real processes on this machine and joins it.

    Args:
        peers: How many peers besides this program.
        **options: ``cpus`` and ``memory`` that each lends, and ``serve_models``; see `LocalNodes`.

    Returns:
        The hive; close it, or use it in a ``with`` statement.
    """
    return LocalHive(LocalNodes(peers, **options))
