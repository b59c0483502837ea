"""What the facts about this machine and its network mean: ports, addresses, disk, memory, sandbox, torch, versions."""

from __future__ import annotations

from typing import Final

from hivemind_p2p.doctor.findings import Condition, Mark, Rule, always
from hivemind_p2p.doctor.machine_facts import (
    Port,
)

ROOM_NEEDED: Final = 64 << 20
"""Bytes: keys, vouchers and a log fit into less, and nothing else does."""

ROOM_WISHED: Final = 2 << 30
"""Bytes: a few layers of a small model."""

SPEED_WISHED: Final = 20e6
"""Bytes a second: a slow memory card. Below it contents arrive faster than they can be stored."""

MEMORY_WISHED: Final = 1 << 30
"""Bytes that are free: an interpreter with torch takes half a GiB."""

FILES_NEEDED: Final = 256
FILES_WISHED: Final = 1024
"""Connections take one each, and contents one a file."""

_BUBBLEWRAP: Final = "Run: sudo apt install bubblewrap (Debian, Ubuntu) or sudo dnf install bubblewrap (Fedora)."
_SWITCH: Final = "Run: sudo sysctl -w {fact.switch}"
_NAMESPACES: Final = (
    "In a container: ask whoever runs it to let it make user namespaces. Else: lend only to people whom you trust."
)
_REINSTALL: Final = "Install it again in the folder of hivemind_p2p: make install"


def _port(port: Port) -> Condition:
    return lambda fact: fact.port is port


PORT: Final = (
    Rule(_port(Port.OWN), Mark.WELL, "Your own peer is running, and answers at port {fact.number}."),
    Rule(
        _port(Port.TAKEN),
        Mark.FAILURE,
        "Port {fact.number} is taken by {fact.holder}.",
        "Choose another port: --listen {fact.other}",
    ),
    Rule(
        _port(Port.FOREIGN),
        Mark.FAILURE,
        "This machine does not have the address in {fact.address}.",
        "Listen at all of its addresses: --listen /ip4/0.0.0.0/tcp/{fact.number}",
    ),
    Rule(
        _port(Port.FORBIDDEN),
        Mark.FAILURE,
        "You may not listen at port {fact.number}: {fact.detail}.",
        "Choose a port above 1023: --listen /ip4/0.0.0.0/tcp/4002",
    ),
    Rule(
        _port(Port.MALFORMED),
        Mark.FAILURE,
        "The address to listen at cannot be understood: {fact.detail}.",
        "Write it like this: --listen /ip4/0.0.0.0/tcp/4002",
    ),
    Rule(lambda fact: not fact.number, Mark.WELL, "Any free port will be used to listen."),
    Rule(always, Mark.WELL, "Port {fact.number} is free to listen at."),
)

ADDRESSES: Final = (
    Rule(
        lambda fact: not (fact.public4 or fact.private4 or fact.public6),
        Mark.FAILURE,
        "This machine has no network address: no cable or wireless network is connected.",
        "Connect it to a network.",
    ),
    Rule(
        lambda fact: bool(fact.public4 and fact.public6),
        Mark.WELL,
        "It has public IPv4 and IPv6 addresses: {fact.public}.",
    ),
    Rule(lambda fact: bool(fact.public4), Mark.WELL, "It has a public IPv4 address: {fact.public}; no IPv6."),
    Rule(
        lambda fact: bool(fact.public6 and fact.private4),
        Mark.WELL,
        "It is in a home or office network ({fact.private}), with a public IPv6 address.",
    ),
    Rule(lambda fact: bool(fact.public6), Mark.WELL, "It has a public IPv6 address only: {fact.public}."),
    Rule(always, Mark.WELL, "It is in a home or office network ({fact.private}), without IPv6."),
)

REACHABILITY: Final = (
    Rule(
        lambda fact: not fact.listens and fact.hive_is_local,
        Mark.WELL,
        "Only this machine can call your peer, which is enough: the hive is on this machine.",
    ),
    Rule(
        lambda fact: not fact.listens,
        Mark.WARNING,
        "Others cannot call your peer: it only listens to this machine. To use a hive that is enough.",
        "To lend this machine to others, start the peer with --listen /ip4/0.0.0.0/tcp/4002",
    ),
    Rule(
        lambda fact: fact.hive_is_local,
        Mark.WELL,
        "The hive is on this machine, so it cannot tell whether others can call your peer.",
    ),
    Rule(
        lambda fact: fact.reachability == "public" and fact.gateway == "mapped",
        Mark.WELL,
        "Others can call your peer at {fact.observed}: the router has opened a port for it.",
    ),
    Rule(
        lambda fact: fact.reachability == "public",
        Mark.WELL,
        "Others can call your peer directly, at {fact.observed}.",
    ),
    Rule(
        lambda fact: fact.relayed and fact.can_punch,
        Mark.WELL,
        "Your peer is behind a router, and is called through a relay until a direct way is found.",
    ),
    Rule(
        lambda fact: fact.relayed,
        Mark.WARNING,
        "Your peer is behind a strict router: others reach it through a relay only, which is slow.",
        "Open a TCP port for it in the router (port forwarding), or switch on UPnP there.",
    ),
    Rule(
        lambda fact: fact.nat == "blocked",
        Mark.FAILURE,
        "A firewall on this machine or in its network lets no call in.",
        "Let incoming TCP through the firewall for the port that the peer listens at.",
    ),
    Rule(
        lambda fact: fact.reachability == "private",
        Mark.WARNING,
        "Your peer is behind a router that lets no call in, and no relay has room. Using the hive works all the same.",
        "To lend this machine: open a TCP port for it in the router (port forwarding), or switch on UPnP there.",
    ),
    Rule(
        lambda fact: fact.nat in ("cone", "symmetric"),
        Mark.WELL,
        "Your peer is behind a router; whether others can call it shows once it runs.",
    ),
    Rule(
        lambda fact: fact.nat == "none",
        Mark.WELL,
        "No router stands between this machine and the hive; whether others can call it shows once it runs.",
    ),
    Rule(always, Mark.WELL, "The hive did not tell whether others can call your peer; it shows once it runs."),
)

FOLDER: Final = (
    Rule(
        lambda fact: fact.full or (fact.writable and fact.free < ROOM_NEEDED),
        Mark.FAILURE,
        "The disk of {fact.path} is full: {fact.free_text} are left.",
        "Delete something there, or choose a folder on another disk with --data FOLDER.",
    ),
    Rule(
        lambda fact: not fact.writable,
        Mark.FAILURE,
        "Nothing can be written in the peer's folder {fact.path}: {fact.detail}.",
        "Choose a folder of your own, for example --data ~/hivemind",
    ),
    Rule(
        lambda fact: fact.free < ROOM_WISHED,
        Mark.WARNING,
        "There is little room left in {fact.path}: {fact.free_text}.",
        "Free some, or choose a folder on another disk with --data FOLDER: layers of models take gigabytes.",
    ),
    Rule(
        lambda fact: 0 < fact.speed < SPEED_WISHED,
        Mark.WARNING,
        "The disk of {fact.path} is slow: it writes {fact.speed_text} a second.",
        "Choose a folder on a faster disk with --data FOLDER; a network drive or memory card is seldom one.",
    ),
    Rule(
        lambda fact: fact.running,
        Mark.WELL,
        "A peer is running with {fact.path} now; {fact.free_text} are free there.",
    ),
    Rule(always, Mark.WELL, "{fact.path} can be written, {fact.speed_text} a second; {fact.free_text} are free."),
)

MEMORY: Final = (
    Rule(
        lambda fact: fact.lent > fact.total,
        Mark.FAILURE,
        "The settings lend {fact.lent_text} of memory, and the machine has {fact.total_text}.",
        "Lend less: --memory {fact.half}",
    ),
    Rule(
        lambda fact: fact.available < MEMORY_WISHED,
        Mark.WARNING,
        "Only {fact.available_text} of {fact.total_text} of memory are free.",
        "Close programs that use much of it.",
    ),
    Rule(
        lambda fact: fact.lent > fact.available,
        Mark.WARNING,
        "The peer would lend {fact.lent_text} of memory, and {fact.available_text} are free now.",
        "Close other programs, or lend less: --memory {fact.half}",
    ),
    Rule(
        always,
        Mark.WELL,
        "Of {fact.total_text} of memory {fact.available_text} are free; the peer would lend {fact.lent_text}.",
    ),
)

OPEN_FILES: Final = (
    Rule(
        lambda fact: fact.soft < FILES_NEEDED,
        Mark.FAILURE,
        "A program may open {fact.soft} files and connections only, too few for a peer.",
        "Run in this terminal before starting the peer: ulimit -n {fact.better}",
    ),
    Rule(
        lambda fact: fact.soft < FILES_WISHED,
        Mark.WARNING,
        "A program may open {fact.soft} files and connections, few for a large hive.",
        "Run in this terminal before starting the peer: ulimit -n {fact.better}",
    ),
    Rule(always, Mark.WELL, "A program may open {fact.soft} files and connections."),
)

SANDBOX: Final = (
    Rule(
        lambda fact: fact.wanted == "none",
        Mark.WARNING,
        "The sandbox is switched off: tasks of others could read your files.",
        "Leave out --sandbox none, unless you trust everybody in the hive.",
    ),
    Rule(
        lambda fact: fact.works and fact.wall == "landlock",
        Mark.WARNING,
        "Tasks of others run behind walls (Landlock), not the strongest: they see no files of yours and no network.",
        _BUBBLEWRAP,
    ),
    Rule(
        lambda fact: fact.works,
        Mark.WELL,
        "Tasks of others run behind walls (bubblewrap): they see no files of yours and no network.",
    ),
    Rule(
        lambda fact: not fact.linux,
        Mark.WARNING,
        "There is no sandbox on this system yet: tasks of others could read your files.",
        "Lend this machine only to people whom you trust, or lend one with Linux.",
    ),
    Rule(
        lambda fact: not fact.installed and fact.wanted == "bubblewrap",
        Mark.FAILURE,
        "The sandbox that --sandbox bubblewrap asks for is not installed, so the peer will not start.",
        _BUBBLEWRAP,
    ),
    Rule(
        lambda fact: not fact.installed,
        Mark.WARNING,
        "The sandbox (bubblewrap) is not installed, and no other works here: the peer will lend nothing.",
        _BUBBLEWRAP,
    ),
    Rule(
        lambda fact: fact.wanted == "bubblewrap" and bool(fact.switch),
        Mark.FAILURE,
        "The sandbox (bubblewrap) is not allowed to build its walls, so the peer will not start.",
        _SWITCH,
    ),
    Rule(
        lambda fact: bool(fact.switch),
        Mark.WARNING,
        "The sandbox (bubblewrap) is not allowed to build its walls, and no other works: the peer will lend nothing.",
        _SWITCH,
    ),
    Rule(
        lambda fact: fact.wanted == "bubblewrap",
        Mark.FAILURE,
        "The sandbox (bubblewrap) does not work here, so the peer will not start: {fact.detail}.",
        _NAMESPACES,
    ),
    Rule(
        always,
        Mark.WARNING,
        "No sandbox works here, so the peer will lend nothing: {fact.detail}.",
        _NAMESPACES,
    ),
)

CGROUP: Final = (
    Rule(
        lambda fact: fact.available,
        Mark.WELL,
        "The kernel limits the memory, the cores and the processes of each task as a whole.",
    ),
    Rule(
        lambda fact: not fact.linux,
        Mark.WELL,
        "This system has no cgroups: tasks are limited process by process.",
    ),
    Rule(
        always,
        Mark.WARNING,
        "Tasks are limited process by process only: {fact.detail}.",
        "Run the peer as a systemd service with Delegate=yes; docs/en/sandbox.md says how.",
    ),
)

TORCH: Final = (
    Rule(
        lambda fact: not fact.version,
        Mark.FAILURE,
        "torch, which computes models, cannot be loaded: {fact.detail}.",
        _REINSTALL,
    ),
    Rule(
        lambda fact: fact.threads > fact.cores,
        Mark.WARNING,
        "The settings let a model's stage use {fact.threads} threads, and there are {fact.cores} cores: they get in "
        "each other's way.",
        "Set threads = {fact.cores} in config.toml, or HIVEMIND_P2P_THREADS={fact.cores}",
    ),
    Rule(
        always,
        Mark.WELL,
        "torch {fact.version} works; a model's stage computes with {fact.threads} of {fact.cores} cores.",
    ),
)

GPU: Final = (
    Rule(
        lambda fact: bool(fact.names),
        Mark.WELL,
        "There is a GPU ({fact.text}): tasks may have it with --gpus -1; models do not use it yet.",
    ),
    Rule(always, Mark.WELL, "There is no GPU; models run on the processor, as they all do in this version."),
)

VERSIONS: Final = (
    Rule(
        lambda fact: bool(fact.unsuitable),
        Mark.FAILURE,
        "Packages of another version are installed than this program was made for: {fact.text}.",
        _REINSTALL,
    ),
    Rule(always, Mark.WELL, "hivemind_p2p {fact.hivemind} on Python {fact.python}; its packages fit."),
)
