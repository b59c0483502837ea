"""libp2p's host as a hive wants it: Noise and Yamux over TCP, large limits, and nothing that is not asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from hivemind_p2p.errors import PortInUseError
from hivemind_p2p.identity import Identity

if TYPE_CHECKING:
    from libp2p.host.basic_host import BasicHost

MOST_CONNECTIONS: Final = 2048
"""Connections at once. Stock libp2p refuses new peers at 250; each costs a socket and about 100 KiB."""

MOST_STREAMS: Final = 65_536
"""Streams at once, all peers together: what one peer may do is the router's business."""

NEGOTIATION_TIMEOUT: Final = 20.0
"""Seconds for agreeing on a protocol. A connected peer that takes longer is stalled, and its connection is closed.

Callers give up earlier; this is when the connection is given up, so that the next call dials anew.
"""


def preload() -> None:
    """Loads libp2p, which takes half a second: for a program that has to wait for something else anyway."""
    import libp2p  # noqa: F401 - loading it is the point


def new_host(identity: Identity) -> BasicHost:
    """A host with this identity, Noise and Yamux, that does nothing unasked; not running yet."""
    import libp2p
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.network.config import ConnectionConfig, RetryConfig
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID

    _quieten()
    yamux = {name: muxer for name, muxer in libp2p.create_yamux_muxer_option().items() if name == PROTOCOL_ID}
    config = ConnectionConfig(
        max_connections=MOST_CONNECTIONS,
        high_watermark=MOST_CONNECTIONS,
        low_watermark=0,
        min_connections=0,
        max_connections_per_peer=1,  # with more, each dial waits 250 ms for a second one
        outbound_stream_protocol_negotiation_timeout=NEGOTIATION_TIMEOUT,
    )
    host = libp2p.new_host(
        key_pair=create_new_key_pair(identity.seed),
        muxer_opt=yamux,
        connection_config=config,
        resource_manager=_resource_manager(),
    )
    host.get_network().retry_config = RetryConfig(max_retries=0)  # a refused connection is known at once
    return host


def _resource_manager() -> Any:
    """Counts connections and streams. The rest of libp2p's manager refuses peers for reasons that a hive knows better.

    Its memory limits count the whole process (a model's weights are not the network's), its rate limiter counts all
    new connections as one peer, and its circuit breaker stays open after a burst.
    """
    from libp2p.rcmgr.connection_limits import ConnectionLimits
    from libp2p.rcmgr.manager import ResourceLimits, ResourceManager

    return ResourceManager(
        limits=ResourceLimits(max_connections=MOST_CONNECTIONS, max_streams=MOST_STREAMS),
        connection_limits=ConnectionLimits(max_established_total=MOST_CONNECTIONS),
        enable_metrics=False,
        enable_memory_limits=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
        enable_rate_limiting=False,
    )


def _quieten() -> None:
    """Keeps libp2p's own log off stderr, unless somebody has asked for it with LIBP2P_DEBUG or a handler.

    What matters of it is told by this package's own events and errors.
    """
    logger = logging.getLogger("libp2p")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


async def run_host(host: BasicHost, listen: Sequence[str], *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Runs the host, listening, until it is cancelled."""
    from multiaddr import Multiaddr

    async with host.run([Multiaddr(address) for address in listen]):
        # It would dial whoever libp2p has heard of, up to half of MOST_CONNECTIONS.
        await host.get_network().auto_connector.stop()
        task_status.started()
        await trio.sleep_forever()


def bound_addresses(host: Any, listen: Sequence[str]) -> tuple[str, ...]:
    """The addresses with the ports that the system has given.

    Raises:
        PortInUseError: One of them is not listened at, although its port was free a moment ago.
    """
    from multiaddr import Multiaddr

    listeners = host.get_network().listeners
    missing = [address for address in listen if str(Multiaddr(address)) not in listeners]
    if missing:
        raise PortInUseError(f"cannot listen at {', '.join(missing)}")
    return tuple(str(address) for listener in listeners.values() for address in listener.get_addrs())
