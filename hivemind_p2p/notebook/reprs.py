"""How the library's objects look in a notebook: HTML templates, filled in here; each has a text repr beside it.

The templates colour little and inherit the rest, so that they fit light and dark themes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from hivemind_p2p.notebook.words import amount, runs
from hivemind_p2p.views import stages_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from hivemind_p2p.hive import Hive
    from hivemind_p2p.job import Job
    from hivemind_p2p.notebook.words import FetchWords
    from hivemind_p2p.views import Balance, ContentList, Ledger, PeerList, Statement

_NUMERIC = frozenset({"cpus", "memory", "credits", "cost", "available", "held", "here", "given"})
"""Columns of numbers, set flush right."""

_COLOURS = {"running": "#4285f4", "well": "#34a853", "failed": "#ea4335"}
"""Of a progress bar: all three stand out from white and from near-black."""


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader

    # Names of peers and tasks come from strangers: everything is escaped.
    return Environment(
        loader=PackageLoader("hivemind_p2p.notebook"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    note: str = "",
    *,
    link: str = "",
    link_text: str = "",
) -> str:
    """An HTML table; every cell is escaped."""
    template = _environment().get_template("table.html")
    return template.render(
        title=title, note=note, columns=columns, rows=list(rows), numeric=_NUMERIC, link=link, link_text=link_text
    )


def progress_html(title: str, fraction: float, text: str, state: str = "running") -> str:
    """A bar with words beside it.

    Args:
        title: What is under way.
        fraction: How far it is, from 0 to 1.
        text: The same in words.
        state: ``running``, ``well`` or ``failed``; the bar's colour.
    """
    percent = f"{100.0 * min(1.0, max(0.0, fraction)):.0f}"
    template = _environment().get_template("progress.html")
    return template.render(title=title, percent=percent, text=text, colour=_COLOURS[state])


def fetch_html(words: FetchWords, state: str, text: str) -> str:
    """A fetch: a bar, a map of the pieces below it, and words beside them.

    Args:
        words: What to say.
        state: ``running``, ``well`` or ``failed``; the bar's colour.
        text: How fast it goes, or what became of it.
    """
    template = _environment().get_template("fetch.html")
    return template.render(
        title=words.title,
        percent=f"{100.0 * min(1.0, max(0.0, words.fraction)):.0f}",
        runs=runs(words.progress.pieces),
        amount=words.amount if state != "well" else "",
        text=text,
        colour=_COLOURS[state],
    )


def hive_html(hive: Hive, *, title: str = "Hive", note: str = "", status_page: str = "") -> str:
    """A hive: who I am in it, and where its status page is."""
    note = note or repr(hive).strip("<>").partition(": ")[2]
    return table(title, (), (), note=note, link=status_page, link_text="status page")


def peers_html(peers: PeerList) -> str:
    """The peers and what they lend."""
    rows = [
        (
            row.name + (" (me)" if row.is_me else ""),
            f"…{row.peer_id[-6:]}",
            f"{row.cpus:g}",
            f"{row.memory_bytes / 2**30:.1f} GiB",
            ", ".join(row.task_types),
            stages_text(row.stages) or ("any model" if row.serves_models else ""),
            str(row.complaints or ""),
        )
        for row in peers
    ]
    columns = ("name", "peer", "cpus", "memory", "tasks", "serves", "outvoted, say accounts")
    shown = len(columns) if any(row.complaints for row in peers) else -1
    return table("Peers", columns[:shown], [row[:shown] for row in rows], note=str(len(rows)))


def contents_html(contents: ContentList) -> str:
    """What lies here, or is shared from here."""
    rows = [
        (row.name, _unbroken(row.here), row.state, _unbroken(amount(row.uploaded_bytes)), "pinned" * row.pinned)
        for row in contents
    ]
    return table("Contents", ("name", "here", "state", "given", ""), rows, note=contents.note)


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def balance_html(balance: Balance) -> str:
    """What an account has."""
    row = (f"{balance.available:.6f}", f"{balance.held:.6f}")
    return table("Balance", ("available", "held"), [row], note="in credits")


def statement_html(statement: Statement) -> str:
    """An account's rows in the ledger."""
    rows = [(f"{row.time:%H:%M:%S}", f"{row.amount:+.6f}", row.what, row.counterparty) for row in statement]
    return table("Statement", ("time", "credits", "what", "with"), rows, note="newest first")


def ledger_html(ledger: Ledger) -> str:
    """Totals by account."""
    rows = [(row.name, f"{row.earned:.6f}", f"{row.paid:.6f}", f"{row.balance:.6f}") for row in ledger]
    note = f"all rows sum to {ledger.sum}"
    return table("Ledger", ("account", "earned", "paid", "balance"), rows, note=note)


def job_html(job: Job[Any]) -> str:
    """One job in a line."""
    return table("Job", ("function", "state", "peer", "cost"), [_job_row(job)])


def jobs_html(jobs: object) -> str:
    """Many jobs: how many there are in each state."""
    return table("Jobs", (), (), note=repr(jobs).strip("<>").removeprefix("JobList of "))


def _job_row(job: Job[Any]) -> tuple[object, ...]:
    peer = f"…{job.peer[-6:]}" if job.peer else ""
    return job.name, job.state.lower(), peer, f"{job.cost:.6f}"
