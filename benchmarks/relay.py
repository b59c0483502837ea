"""What does a relay cost, beside a direct connection between the same machines?

Real NATs in network namespaces (`tests/interop/lab.py`), so it needs root. All peers share this machine's cores, the
relay among them: a relay on a machine of its own does better.

    python benchmarks/relay.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from _harness import ROOT, Figures, Options, median, run

KIB, MIB = 1 << 10, 1 << 20


def measure(options: Options) -> Figures:
    """A call from a private peer to a public one, and one to a private one."""
    sys.path.insert(0, str(ROOT))
    from tests.interop.lab import Lab, Nat, why_not
    from tests.interop.lab_process import peers

    figures = Figures()
    if reason := why_not():
        figures.row("not measured", reason)
        return figures
    with tempfile.TemporaryDirectory() as folder, Lab() as lab, peers(Path(folder)) as start:
        relay = start(lab.public_host(), limits={})
        private, caller = (start(lab.private_host(Nat.SYMMETRIC), trusted=[relay.address]) for _ in range(2))
        for peer in (private, caller):
            peer.wait_for(lambda view: view["relayed"])
        public = start(lab.public_host())
        found = {
            "direct": _way(options, caller, public, [public.address]),
            "relayed": _way(options, caller, private, private.addresses()[-1:]),
        }
    for way, (speed, small, large, connect) in found.items():
        figures.row(f"{way}, 1 MiB writes", speed, "MiB/s")
        figures.row(f"{way}, round trip of 1 KiB", small, "ms")
        figures.row(f"{way}, round trip of 1 MiB", large, "ms")
        figures.row(f"{way}, connecting", connect, "ms")
    figures.claim("relayed throughput", found["relayed"][0] / found["direct"][0], "of direct")
    figures.claim("relayed round trip of 1 KiB", found["relayed"][1] / found["direct"][1], "times direct")
    return figures


def _way(options: Options, caller: Any, called: Any, addresses: list[str]) -> tuple[float, float, float, float]:
    """Throughput, round trips of small and large messages, and the time to connect."""
    connect = caller.ask("timed_connect", addresses=addresses)
    size = options.pick(256, 64) * MIB
    speed = max(caller.ask("send", peer=called.peer_id, size=size) for _ in range(2)) * 1e6 / MIB
    trips = []
    for length in (KIB, MIB):
        name = f"{called.peer_id} {length}"
        rounds = options.pick(200, 30)
        times = [caller.ask("echo", peer=called.peer_id, size=length, name=name)["seconds"] for _ in range(rounds)]
        trips.append(median(times) * 1000)
    return speed, trips[0], trips[1], connect * 1000


if __name__ == "__main__":
    run(__doc__, measure)
