"""A small internet of network namespaces: public hosts on one bridge, and private hosts behind routers with real NATs.

    with Lab() as lab:
        bootstrap = lab.public_host()
        alice = lab.private_host(Nat.SYMMETRIC)
        process = subprocess.Popen(alice.command([sys.executable, "peer.py"]))

Each host and each router is a namespace of its own; the translation is the kernel's. Addresses in the middle are from
a public range, so that peers take them for what they would be on the internet; nothing leaves the namespaces. Needs
root, iproute2 and iptables (`tools/system.sh`).
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

import pytest

_serial = itertools.count()


class Nat(Enum):
    """How a router translates (RFC 4787) and whom it lets in (RFC 5382)."""

    FULL_CONE = "full cone"
    """The same port for everybody, and everybody is let in."""

    CONE = "cone"
    """The same port for everybody; only who was called may answer. What Linux routers do."""

    SYMMETRIC = "symmetric"
    """A random port for each destination; only who was called may answer."""


@dataclass(frozen=True)
class Host:
    """A namespace that peers run in.

    Attributes:
        namespace: Its name.
        address: The IP address of its only interface.
        outside: The IP address under which the internet sees it.
        router: The namespace of its router; empty for a public host.
    """

    namespace: str
    address: str
    outside: str
    router: str = ""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A command line that runs in this namespace."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


def why_not() -> str:
    """Why there can be no lab on this machine; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "iptables") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (sh tools/system.sh)"
    probe = f"hm{os.getpid()}-probe"
    if _try(["ip", "netns", "add", probe]):
        return "this machine allows no network namespaces"
    usable = not _try(["ip", "netns", "exec", probe, "iptables", "-t", "nat", "-S"])
    _try(["ip", "netns", "delete", probe])
    return "" if usable else "the kernel has no iptables NAT"


def skip_unless_possible() -> None:
    """Skips a test where there can be no lab."""
    if reason := why_not():
        pytest.skip(reason, allow_module_level=True)


class Lab:
    """The internet in the middle; use it as a context manager, which takes everything down again.

    Attributes:
        name: What the names of all its namespaces begin with.
    """

    def __init__(self) -> None:
        self.name = f"hm{os.getpid()}-{next(_serial)}"
        self._stack = ExitStack()
        self._hosts = itertools.count(1)
        self._internet = f"{self.name}-net"

    def __enter__(self) -> Lab:
        try:
            self._add_namespace(self._internet)
            self._in(self._internet, "ip link add bridge type bridge")
            self._in(self._internet, "ip link set bridge up")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def public_host(self) -> Host:
        """A host with an address of its own on the internet."""
        namespace, outside = self._join_internet("pub")
        return Host(namespace, outside, outside)

    def private_host(self, nat: Nat) -> Host:
        """A host alone behind a router of its own."""
        router, outside = self._join_internet("rtr")
        number = next(self._hosts)
        namespace = f"{self.name}-prv{number}"
        self._add_namespace(namespace)
        inside, gateway = f"192.168.{number}.2", f"192.168.{number}.1"
        self._connect(router, "lan", namespace, "eth0")
        self._in(router, f"ip address add {gateway}/24 dev lan")
        self._in(namespace, f"ip address add {inside}/24 dev eth0")
        self._in(namespace, f"ip route add default via {gateway}")
        self._in(router, "sysctl -qw net.ipv4.ip_forward=1")
        for rule in _rules(nat, inside):
            self._in(router, f"iptables {rule}")
        return Host(namespace, inside, outside, router)

    def run_in(self, namespace: str, command: str) -> None:
        """Runs a command in a namespace, to its end."""
        self._in(namespace, command)

    def _join_internet(self, kind: str) -> tuple[str, str]:
        number = next(self._hosts)
        namespace, outside = f"{self.name}-{kind}{number}", f"11.0.{number}.1"
        self._add_namespace(namespace)
        self._connect(self._internet, f"to{number}", namespace, "wan")
        self._in(self._internet, f"ip link set to{number} master bridge")
        self._in(namespace, f"ip address add {outside}/16 dev wan")
        return namespace, outside

    def _add_namespace(self, namespace: str) -> None:
        _run(["ip", "netns", "add", namespace])
        self._stack.callback(_try, ["ip", "netns", "delete", namespace])
        self._in(namespace, "ip link set lo up")

    def _connect(self, one: str, its: str, other: str, others: str) -> None:
        _run(["ip", "link", "add", its, "netns", one, "type", "veth", "peer", "name", others, "netns", other])
        self._in(one, f"ip link set {its} up")
        self._in(other, f"ip link set {others} up")

    def _in(self, namespace: str, command: str) -> None:
        _run(["ip", "netns", "exec", namespace, *command.split()])


def _rules(nat: Nat, inside: str) -> list[str]:
    known = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    rules = [
        f"-A INPUT -i wan {known}",
        "-A INPUT -i wan -j DROP",  # a router answers nobody who knocks
        f"-A FORWARD -i wan {known}",
        "-A FORWARD -i wan -m conntrack --ctstate DNAT -j ACCEPT",
        "-A FORWARD -i wan -j DROP",
        f"-t nat -A POSTROUTING -o wan -j MASQUERADE{' --random-fully' if nat is Nat.SYMMETRIC else ''}",
    ]
    if nat is Nat.FULL_CONE:
        rules.append(f"-t nat -A PREROUTING -i wan -p tcp -j DNAT --to-destination {inside}")
    return rules


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _try(command: Sequence[str]) -> int:
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode
