"""The tracker over HTTP: ``/announce`` and ``/scrape`` for clients, ``/api/tracker`` for people who look after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from ipaddress import ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hivemind_bootstrap.tracker import Tracker
from hivemind_bootstrap.tracker_requests import TrackerError, parse_announce, parse_scrape

_Clock: TypeAlias = Callable[[], float]

ANNOUNCE = "/announce"
"""The path in the URL that ``.torrent`` files name."""


def tracker_routes(tracker: Tracker, clock: _Clock) -> list[Route]:
    """The routes of a tracker.

    Args:
        tracker: Decides.
        clock: Seconds on a clock that only moves forward.
    """
    return [
        Route(ANNOUNCE, partial(_answer, partial(_announce, tracker, clock))),
        Route("/scrape", partial(_answer, partial(_scrape, tracker, clock))),
        Route("/api/tracker", partial(_statistics, tracker)),
    ]


def announce_url(base: str) -> str:
    """The URL of the tracker for ``.torrent`` files; nothing where `base` is no address that anybody could dial."""
    host = urlsplit(base).hostname or ""
    with suppress(ValueError):
        if ip_address(host).is_unspecified:
            return ""
    return base.rstrip("/") + ANNOUNCE


async def _answer(answer: Callable[[bytes, str], bytes], request: Request) -> Response:
    try:
        # The address of the connection: a header that names another one could be anybody's.
        body = answer(request.scope["query_string"], request.client.host if request.client else "")
    except TrackerError as error:
        body = error.encode()
    return Response(body, media_type="text/plain", headers={"cache-control": "no-store"})


async def _statistics(tracker: Tracker, _request: Request) -> Response:
    return JSONResponse(asdict(tracker.statistics()), headers={"cache-control": "no-store"})


def _announce(tracker: Tracker, clock: _Clock, query: bytes, address: str) -> bytes:
    return tracker.announce(parse_announce(query), address, clock())


def _scrape(tracker: Tracker, clock: _Clock, query: bytes, address: str) -> bytes:
    return tracker.scrape(parse_scrape(query), address, clock())
