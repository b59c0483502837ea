"""Tables for terminals."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from hivemind_p2p.views import PeerRow, stages_text


def peers_table(peers: Iterable[PeerRow]) -> Table:
    """Who is there and what they lend."""
    table = Table("peer", "id", "cpus", "memory", "tasks", "model", title="Peers", title_justify="left")
    for row in peers:
        table.add_row(
            row.name,
            f"…{row.peer_id[-6:]}",
            f"{row.cpus:g}",
            f"{row.memory_bytes / 2**30:.1f} GiB",
            ", ".join(row.task_types),
            stages_text(row.stages),
        )
    return table
