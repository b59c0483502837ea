"""How the library's objects look in a notebook: one HTML template, filled in here; each has a text repr beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from hivemind_p2p.views import stages_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from hivemind_p2p.hive import Hive
    from hivemind_p2p.job import Job
    from hivemind_p2p.views import PeerList, Statement


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader

    # Names of peers and tasks come from strangers: everything is escaped.
    return Environment(loader=PackageLoader("hivemind_p2p.notebook"), autoescape=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> str:
    """An HTML table; every cell is escaped."""
    template = _environment().get_template("table.html")
    return template.render(title=title, note=note, columns=columns, rows=list(rows))


def hive_html(hive: Hive) -> str:
    """A hive: who I am and who else is there."""
    return table("Hive", (), (), note=repr(hive).strip("<>").removeprefix("Hive: "))


def peers_html(peers: PeerList) -> str:
    """The peers and what they lend."""
    rows = [
        (
            row.name + (" (me)" if row.is_me else ""),
            f"…{row.peer_id[-6:]}",
            f"{row.cpus:g}",
            f"{row.memory_bytes / 2**30:.1f} GiB",
            ", ".join(row.task_types),
            stages_text(row.stages),
        )
        for row in peers
    ]
    return table("Peers", ("name", "peer", "cpus", "memory", "tasks", "model"), rows, note=str(len(rows)))


def statement_html(statement: Statement) -> str:
    """An account's rows in the ledger."""
    rows = [(f"{row.time:%H:%M:%S}", f"{row.amount:+.6f}", row.what, row.counterparty) for row in statement]
    return table("Statement", ("time", "credits", "what", "with"), rows, note="newest first")


def job_html(job: Job[Any]) -> str:
    """One job in a line."""
    peer = f"…{job.peer[-6:]}" if job.peer else ""
    return table("Job", ("function", "state", "peer", "cost"), [(job.name, job.state, peer, job.cost)], job.id[:8])
