"""What happens, told once: each event is a structlog line and a Prometheus count.

    _events = telemetry.source("swarm")
    _events.info("piece_verified", peer=peer_id, piece=7)

counts ``hivemind_events_total{source="swarm", event="piece_verified"}`` and, where the level is shown, writes a
line to stderr. Nothing is set up on import: a program calls `configure` once, a library user never has to.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import Counter

Level = Literal["debug", "info", "warning", "error"]


@cache
def events_total() -> Counter:
    """The counter behind every event, made on first use."""
    from prometheus_client import Counter

    return Counter("hivemind_events_total", "Events by source and name.", ["source", "event"])


Listener = Callable[[Level, str, str, dict[str, Any]], None]
"""Told of every event: its level, its source, its name, its details. Must not raise, and not wait."""

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tells a listener of every event for the time of the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Source:
    """Tells the events of one part of the house."""

    def __init__(self, name: str) -> None:
        self.name = name

    def debug(self, event: str, **details: Any) -> None:
        """Of interest when something is being looked for."""
        self._tell("debug", event, details)

    def info(self, event: str, **details: Any) -> None:
        """Worth a line in a log that is read."""
        self._tell("info", event, details)

    def warning(self, event: str, **details: Any) -> None:
        """Something went wrong and was dealt with."""
        self._tell("warning", event, details)

    def error(self, event: str, **details: Any) -> None:
        """Something went wrong that somebody has to look at."""
        self._tell("error", event, details)

    def _tell(self, level: Level, event: str, details: dict[str, Any]) -> None:
        import structlog

        events_total().labels(source=self.name, event=event).inc()
        for listener in _listeners:
            listener(level, self.name, event, details)
        if not structlog.is_configured():
            return
        getattr(structlog.get_logger(), level)(event, source=self.name, **details)


@cache
def source(name: str) -> Source:
    """The source with this name."""
    return Source(name)


def configure(level: Level = "info", *, as_json: bool = False) -> None:
    """Writes events of `level` and above to stderr, as text or one JSON object a line. For programs, not libraries."""
    import structlog

    number = getattr(logging, level.upper())
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


__all__ = ["Level", "Listener", "Source", "configure", "events_total", "listening", "source"]
