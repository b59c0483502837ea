"""Which connections to close when there are more than a peer wants to keep: the least useful first.

A peer of a large hive talks to far more peers than it can keep connections to: each costs a socket on both sides,
some 50 KiB and a ping now and then. A connection that is closed is dialled again when it is wanted, which takes
some milliseconds. So only those without a stream go, the ones that were of no use for longest first, and those last
that were used again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

BUDGET: Final = 256
"""Connections that a peer keeps: far more than the stages, sources and replicas that it works with at one time."""

SLACK: Final = 0.1
"""The part of the budget that is freed at once, so that connections are not weighed anew with each one that opens."""

GRACE: Final = 5.0
"""Seconds that a new connection is left alone: whoever dialled it is about to use it."""

WORTH_OF_A_STREAM: Final = 5.0
"""Seconds by which each stream that a connection has carried delays its end."""

MOST_WORTH: Final = 300.0
"""Seconds by which a much used connection's end is delayed at the most."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One connection, as far as the budget is concerned. Times are seconds on any clock.

    Attributes:
        key: Names the connection.
        streams: Open now.
        carried: Streams so far.
        used_at: When its last stream was opened or closed.
        opened_at: When it was made.
        kept: Whether it is to be kept in any case: the bootstrap's, a relay's.
        doubled: Whether the same peer has a better connection.
    """

    key: int
    streams: int
    carried: int
    used_at: float
    opened_at: float
    kept: bool = False
    doubled: bool = False


def surplus(connections: Sequence[Usage], now: float, *, budget: int = BUDGET) -> tuple[int, ...]:
    """The connections to close, least useful first.

    Args:
        connections: All there are.
        now: The time on their clock.
        budget: How many to keep.

    Returns:
        Their keys: nothing while the budget is kept to; fewer than needed where the others are in use.
    """
    idle = [usage for usage in connections if _may_go(usage, now)]
    doubled = [usage.key for usage in idle if usage.doubled]
    if len(connections) - len(doubled) <= budget:
        return tuple(doubled)
    excess = len(connections) - len(doubled) - round(budget * (1 - SLACK))
    return (*doubled, *_least_useful((usage for usage in idle if not usage.doubled), excess))


def _may_go(usage: Usage, now: float) -> bool:
    return not (usage.kept or usage.streams) and now - usage.opened_at >= GRACE


def _least_useful(idle: Iterable[Usage], count: int) -> list[int]:
    return [usage.key for usage in sorted(idle, key=_useful_until)[:count]]


def _useful_until(usage: Usage) -> tuple[float, int]:
    return usage.used_at + min(MOST_WORTH, WORTH_OF_A_STREAM * usage.carried), usage.key
