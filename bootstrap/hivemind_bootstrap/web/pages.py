"""The web application.

    /             the status page
    /api/status   the same as JSON
    /health       200 while the ledger adds up, else 503
    /metrics      Prometheus
    /announce     the BitTorrent tracker, where it is on (`tracker_pages`)

Nothing here changes anything of the hive's, so there is nothing to log in to. The pages load nothing from elsewhere,
run no script but their own file, and escape all that peers say about themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hivemind_bootstrap.status import StatusSource

FOLDER = Path(__file__).parent

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class SecurityHeaders:
    """Adds the headers above to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def make_web(source: StatusSource, more: Sequence[Route] = ()) -> Starlette:
    """The application for one bootstrap, with more routes than its own where there are any."""
    templates = Environment(loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined)
    templates.filters["uptime"] = uptime
    templates.filters["size"] = size
    templates.globals["static_version"] = _static_version()
    routes = [
        Route("/", partial(_index, source, templates)),
        Route("/api/status", partial(_api_status, source)),
        Route("/health", partial(_health, source)),
        Route("/metrics", _metrics),
        *more,
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]
    return Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)])


async def _index(source: StatusSource, templates: Environment, _request: Request) -> Response:
    status = await source.status()
    page = templates.get_template("index.html").render(status=status)
    return HTMLResponse(page, headers={"cache-control": "no-store"})


async def _api_status(source: StatusSource, _request: Request) -> Response:
    status = await source.status()
    return JSONResponse(status.as_json(), headers={"cache-control": "no-store"})


async def _health(source: StatusSource, _request: Request) -> Response:
    status = await source.status()
    body = {"status": "ok" if status.healthy else "the ledger does not add up", "uptime_seconds": status.uptime_seconds}
    return JSONResponse(body, status_code=200 if status.healthy else 503, headers={"cache-control": "no-store"})


async def _metrics(_request: Request) -> Response:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _static_version() -> str:
    """Changes with the files, so that a browser never mixes an old style with a new page."""
    digest = hashlib.sha256()
    for path in sorted((FOLDER / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def uptime(seconds: float) -> str:
    """Time for people: ``3 d 4 h``, ``12 min 5 s``."""
    left = int(seconds)
    parts = []
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"


def size(count: int) -> str:
    """Bytes for people: ``2.0 GiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
