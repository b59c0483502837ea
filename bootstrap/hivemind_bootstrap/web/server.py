"""Hypercorn around the web application, inside the bootstrap's own trio run."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import trio
from starlette.applications import Starlette
from starlette.routing import Route

from hivemind_bootstrap.config import split_host_port
from hivemind_bootstrap.status import StatusSource
from hivemind_bootstrap.web.pages import make_web
from hivemind_p2p.errors import ConfigurationError, PortInUseError

GRACE = 1.0
"""Seconds that requests under way are given at the end."""

LARGEST_HEADERS = 16 * 1024
"""Bytes of a request's headers: the pages need none of them."""


class UrlStatus(Protocol):
    """What `nursery.start` hands over."""

    def started(self, value: str) -> None:
        """Lets `nursery.start` return."""


async def serve_web(address: str, source: StatusSource, more: Sequence[Route] = (), *, task_status: UrlStatus) -> None:
    """Serves the pages until cancelled, with more routes than their own where there are any; reports their URL.

    Raises:
        PortInUseError: Another process listens there.
        ConfigurationError: This machine has no such address.
    """
    await serve_app(address, make_web(source, more), task_status=task_status)


async def serve_app(address: str, app: Starlette, *, task_status: UrlStatus) -> None:
    """Serves an application until cancelled; reports its URL.

    Raises:
        PortInUseError: Another process listens there.
        ConfigurationError: This machine has no such address.
    """
    from hypercorn.config import Config
    from hypercorn.trio import serve

    listener = _listen(address)
    config = Config()
    # Hypercorn takes over a socket that is open already: its port is known before anything is served.
    config.bind = [f"fd://{listener.fileno()}"]
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = GRACE
    config.h11_max_incomplete_size = LARGEST_HEADERS
    config.include_server_header = False
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    listener.detach()
    async with trio.open_nursery() as nursery:
        await nursery.start(_serve, serve, app, config)
        task_status.started(url)


async def _serve(serve: Any, app: Any, config: Any, *, task_status: Any) -> None:
    await serve(app, config, shutdown_trigger=trio.sleep_forever, task_status=task_status)


def _listen(address: str) -> socket.socket:
    host, port = split_host_port(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {address}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"another process listens on {address}") from error
        raise ConfigurationError(f"cannot listen on {address}: {error.strerror}") from error
    return listener
