"""Serves the page, to this machine only.

Other users of the machine, and pages of other origins in the same browser, must not see the jobs. So the address holds
a secret that only this program has told; everything else is not found, and so is what was asked for under another
name than that of this machine (DNS rebinding). Nothing here changes anything.
"""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Any, Final, Protocol

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from hivemind_p2p.jobs_page.book import JobsBook

STATIC: Final = Path(__file__).parent / "static"
FILES: Final = {"": "page.html", "page.js": "page.js", "page.css": "page.css"}

GRACE: Final = 0.5
"""Seconds that requests under way are given at the end."""

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_NOT_FOUND: Final = "There is nothing here."


class UrlStatus(Protocol):
    """What `nursery.start` hands over."""

    def started(self, value: str) -> None:
        """Lets `nursery.start` return."""


def make_app(book: JobsBook, secret: str) -> Starlette:
    """The application; `secret` is the first part of every path in it."""

    def answer(request: Request) -> Response:
        host = request.headers.get("host", "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost") or not secrets.compare_digest(_secret_of(request), secret):
            return Response(_NOT_FOUND, 404, HEADERS)
        return _found(book, request.path_params["rest"])

    return Starlette(routes=[Route("/{secret}/{rest:path}", answer), Route("/{rest:path}", _nothing)])


def _secret_of(request: Request) -> str:
    given: str = request.path_params["secret"]
    return given if given.isascii() else ""


async def _nothing(_request: Request) -> Response:
    return Response(_NOT_FOUND, 404, HEADERS)


def _found(book: JobsBook, path: str) -> Response:
    if path in FILES:
        return FileResponse(STATIC / FILES[path], headers=HEADERS)
    if path == "jobs":
        return JSONResponse(book.look(), headers=HEADERS)
    kind, _, job_id = path.partition("/")
    details = book.details(job_id) if kind == "jobs" else None
    if details is None:
        return Response(_NOT_FOUND, 404, HEADERS)
    return JSONResponse(details.as_json(), headers=HEADERS)


async def serve(book: JobsBook, *, task_status: UrlStatus) -> None:
    """Serves the page until cancelled; reports its address, with the secret."""
    from hypercorn.config import Config
    from hypercorn.trio import serve as serve_app

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    secret = secrets.token_urlsafe(24)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/{secret}/"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = GRACE
    config.include_server_header = False
    async with trio.open_nursery() as nursery:
        await nursery.start(_serve, serve_app, make_app(book, secret), config)
        task_status.started(url)


async def _serve(serve_app: Any, app: Any, config: Any, *, task_status: Any) -> None:
    await serve_app(app, config, shutdown_trigger=trio.sleep_forever, task_status=task_status)
