"""A child walls itself in: what it is told to give up, and the giving up. Nothing of it can be taken back.

The orders come on the command line, as text of one ``name=value`` a line, because a fresh child should load little.
What is ordered and cannot be done ends the child with a complaint: it never goes on with fewer walls than it was
started for.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Final

from hivemind_p2p.worker import limits

_SEPARATOR: Final = "\n"


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child does before its first task.

    Attributes:
        wall: ``bubblewrap``, ``landlock`` or ``none``.
        uid: The user to become; 0 to stay the same.
        parent: The process to die with; 0 where something else sees to that.
        network: Whether the machine's network may be used.
        landlock: The version of Landlock to use; 0 for none.
        filtered: Whether system calls are filtered.
        groups: Groups that the user belongs to, for the devices that it may use.
        devices: Device files that may be used, beside those that everybody has.
        readable: Paths that Landlock leaves readable.
        writable: Paths that it leaves writable.
    """

    wall: str
    uid: int = 0
    parent: int = 0
    network: bool = False
    landlock: int = 0
    filtered: bool = False
    groups: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()

    def to_text(self) -> str:
        """For the command line.

        Raises:
            ValueError: A path has a line break in it.
        """
        lines = [f"wall={self.wall}", f"uid={self.uid}", f"parent={self.parent}", f"network={self.network:d}"]
        lines += [f"landlock={self.landlock}", f"filtered={self.filtered:d}"]
        lines += [f"group={group}" for group in self.groups]
        lines += [f"device={path}" for path in self.devices]
        lines += [f"read={path}" for path in self.readable]
        lines += [f"write={path}" for path in self.writable]
        if any(_SEPARATOR in line for line in lines):
            raise ValueError("a folder's name with a line break in it")
        return _SEPARATOR.join(lines)

    @classmethod
    def from_text(cls, text: str) -> Orders:
        """What `to_text` wrote."""
        pairs = [line.partition("=")[::2] for line in text.split(_SEPARATOR)]
        single = dict(pairs)
        return cls(
            wall=single["wall"],
            uid=int(single["uid"]),
            parent=int(single["parent"]),
            network=single["network"] == "1",
            landlock=int(single["landlock"]),
            filtered=single["filtered"] == "1",
            groups=tuple(int(group) for name, group in pairs if name == "group"),
            devices=tuple(path for name, path in pairs if name == "device"),
            readable=tuple(path for name, path in pairs if name == "read"),
            writable=tuple(path for name, path in pairs if name == "write"),
        )


def wall_in(orders: Orders) -> None:
    """Carries the orders out.

    Raises:
        OSError: The kernel refuses.
    """
    linux = sys.platform == "linux"
    own_namespace = orders.wall == "bubblewrap" and not orders.uid
    kernel = limits.version_of(os.uname().release) if linux else (0, 0)
    if linux:
        _be_the_first_to_go()
    limits.lower(limits.at_start(own_user=bool(orders.uid), own_namespace=own_namespace, kernel=kernel))
    if orders.uid:
        _become(orders.uid, orders.groups)
    if linux and (orders.uid or orders.parent or orders.landlock or orders.filtered):
        _use_the_kernel(orders)


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory, the kernel ends a task sooner than the peer or anything else."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        return  # a comfort, not a wall


def _become(uid: int, groups: tuple[int, ...]) -> None:
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _use_the_kernel(orders: Orders) -> None:
    from hivemind_p2p.worker import kernel

    if orders.uid:
        kernel.stay_readable()
    if orders.parent:
        kernel.die_with(orders.parent)
        kernel.adopt_orphans()
    if orders.landlock or orders.filtered:
        kernel.give_up_new_privileges()
    if orders.landlock:
        readable = (*orders.readable, f"/proc/{os.getpid()}")
        network = orders.network or orders.wall == "bubblewrap"  # which has a network of its own, with nobody in it
        kernel.restrict(orders.landlock, readable, orders.writable, orders.devices, network=network)
    if orders.filtered:
        kernel.filter_calls(_filter(orders))


def _filter(orders: Orders) -> bytes:
    from hivemind_p2p.worker import landlock, seccomp

    shared = orders.wall != "bubblewrap"
    same_user = shared and not orders.uid
    own_pid = os.getpid() if same_user and orders.landlock < landlock.SIGNALS_ABI else 0
    rules = seccomp.rules(shared=shared, network=orders.network, same_user=same_user, own_pid=own_pid)
    return seccomp.program(seccomp.MACHINES[os.uname().machine], rules)
