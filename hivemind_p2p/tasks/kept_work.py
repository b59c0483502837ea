"""Work that goes on when its caller is lost, and its outcome for when the caller comes back.

The executor tells a `KeptWork`, which tells the session that the work came on, as long as there is one. A caller that
sends the same task id again gets what is there: the work that still runs, or its outcome.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hivemind_p2p.interfaces import WorkListener
from hivemind_p2p.types import Outcome, PeerId, Work

KEEP_SECONDS: Final = 3600.0
"""How long an outcome is kept for a caller that has not come back."""

MOST_KEPT: Final = 256
MOST_OF_ONE_CALLER: Final = 64
MOST_KEPT_BYTES: Final = 256 << 20
"""Tasks, and bytes of outcomes, that are kept: the oldest goes first."""


@dataclass(slots=True, eq=False)
class KeptWork:
    """One task that was to be kept; a `WorkListener`.

    Attributes:
        work: The task.
        session: Who is told; None while the caller is away.
        outcome: How it ended; None while it has not.
        charged: Whether its cost was put on a tab already.
        at: When it ended, or its caller was lost.
    """

    work: Work
    session: WorkListener | None
    outcome: Outcome | None = None
    charged: bool = False
    at: float = 0.0

    def started(self, work: Work) -> None:
        """Passes it on."""
        if self.session is not None:
            self.session.started(work)

    def printed(self, work: Work, data: bytes) -> None:
        """Passes it on; what is printed for nobody is kept as far as it is the end of it."""
        if self.session is not None:
            self.session.printed(work, data)

    def ended(self, work: Work, outcome: Outcome) -> None:
        """Notes it, and passes it on."""
        self.outcome = outcome
        if self.session is not None:
            self.session.ended(work, outcome)


class KeptWorks:
    """All of one worker. No clock, no network.

    Args:
        let_go: Takes over outcomes that are kept no longer.
    """

    def __init__(self, let_go: Callable[[Outcome], None] = lambda _: None) -> None:
        self._let_go = let_go
        self._works: OrderedDict[tuple[PeerId, str], KeptWork] = OrderedDict()

    def __len__(self) -> int:
        return len(self._works)

    def begin(self, work: Work, session: WorkListener) -> KeptWork:
        """A task is about to be run, for the first time."""
        kept = KeptWork(work, session)
        self._works[work.caller, work.task_id] = kept
        return kept

    def find(self, caller: PeerId, task_id: str) -> KeptWork | None:
        """A task of this caller; None where it was never begun here, or is kept no longer."""
        return self._works.get((caller, task_id))

    def drop(self, work: Work) -> None:
        """It was cancelled, or is its caller's to keep from now on."""
        kept = self._works.pop((work.caller, work.task_id), None)
        if kept is not None and kept.outcome is not None:
            self._let_go(kept.outcome)

    def left(self, kept: KeptWork, now: float) -> None:
        """Its caller is gone."""
        kept.session, kept.at = None, now

    def tidy(self, now: float) -> list[Work]:
        """Forgets what is too old or too much; what of it still runs, which is to be stopped."""
        stopped = []
        counts: dict[PeerId, int] = {}
        size = 0
        for key, kept in reversed(list(self._works.items())):
            counts[key[0]] = counts.get(key[0], 0) + 1
            size += len(kept.outcome.payload) if kept.outcome is not None else 0
            old = kept.session is None and now - kept.at > KEEP_SECONDS and kept.outcome is not None
            many = counts[key[0]] > MOST_OF_ONE_CALLER or sum(counts.values()) > MOST_KEPT or size > MOST_KEPT_BYTES
            if old or (many and (kept.session is None or kept.outcome is not None)):
                del self._works[key]
                if kept.outcome is None:
                    stopped.append(kept.work)
                else:
                    self._let_go(kept.outcome)
        return stopped
