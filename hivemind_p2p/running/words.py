"""Events of the log, amounts and times in a few words, for people who look at the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hivemind_p2p.types import PeerId

_WORDS: Final[dict[tuple[str, str], str]] = {
    ("lending", "lending_changed"): "{state}: {reason}",
    ("executor", "no_sandbox"): "there are no walls around tasks: {advice}",
    ("executor", "sandbox_unavailable"): "{sandbox} does not work here: {error}",
    ("executor", "child_not_started"): "no child process could be started: {error}",
    ("tasks", "task_cancelled"): "{caller} cancelled a task",
    ("tasks", "task_unpaid"): "{caller} did not pay",
    ("tasks", "result_rejected"): "{caller} found a result wrong that other peers agreed about, and does not pay it",
    ("directory", "joined"): "joined the hive, {peers} peers are near",
    ("directory", "rejoined"): "the bootstrap is back",
    ("till", "settlement_failed"): "not settled yet: {reason}",
    ("hosting", "stage_ready"): "hosts layers {span} of a model",
    ("swarm", "fetched"): "fetched {bytes} bytes of a content",
    ("swarm", "shared"): "shares a content of {bytes} bytes",
    ("network", "mapped"): "the router forwards {address} to this peer",
    ("reachability", "network"): "the network is {reachability}",
}
"""The events that are told whatever their level, in words of their details."""

_DETAILS: Final = ("reason", "error", "message", "advice", "peer", "link")
"""Of an event without words of its own, the details that are told, the first that there is."""

LONGEST: Final = 300
"""Characters of one line."""


def event_in_words(source: str, event: str, details: Mapping[str, Any], *, important: bool) -> str:
    """One line about an event; empty for one that is not worth it.

    Args:
        source: Which part of the house told it.
        event: Its name.
        details: Its details.
        important: Whether it is told even where no words are known for it.
    """
    known = _WORDS.get((source, event))
    plain = {name: _plain(value) for name, value in details.items()}
    if known is not None:
        return _clean(known.format_map(_Lacking(plain)).removesuffix(": "))
    if not important:
        return ""
    more = next((plain[name] for name in _DETAILS if plain.get(name)), "")
    return _clean(f"{event.replace('_', ' ')}{': ' if more else ''}{more}")


class _Lacking(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def _plain(value: Any) -> str:
    if value is None:
        return ""
    text = str(value)
    return short(PeerId(text)) if text.startswith("12D3KooW") else text


def _clean(text: str) -> str:
    """Peers' words among them must not steer the terminal."""
    text = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)[:LONGEST]


def short(peer: PeerId) -> str:
    """A peer id as far as people tell peers apart by it."""
    return f"…{peer[-6:]}"


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(4.2), duration(75), duration(3 * 3600 + 62)
        ('4.2 s', '1:15', '3:01:02')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int) -> str:
    """A number with its thousands apart.

    Example:
        >>> count(1234567)
        '1,234,567'
    """
    return f"{number:,}"
