"""libp2p's host as a hive wants it: our own Noise and Yamux over TCP, large limits, and nothing that is not asked for.

Both are put where libp2p has a place for them: the security transport by an option of its host, the muxer by the
upgrader that its swarm asks for upgrades. Nothing of libp2p's own modules is changed, so that stock hosts in the same
process stay stock.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import trio

from hivemind_p2p.errors import NetworkError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.sockets import open_socket
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from libp2p.host.basic_host import BasicHost

MOST_CONNECTIONS: Final = 2048
"""Connections at once. Stock libp2p refuses new peers at 250; each costs a socket and about 100 KiB."""

MOST_OF_ONE_PEER: Final = 8
"""Connections with one peer: one relayed and one direct, each doubled for the moment when both sides dial at once."""

MOST_STREAMS: Final = 65_536
"""Streams at once, all peers together: what one peer may do is the router's business."""

UPGRADE_TIMEOUT: Final = 10.0
"""Seconds for agreeing on the muxer with a side that was authenticated already."""

LONGEST_STORY: Final = 160
"""Characters of what libp2p says about an error: some of it quotes what the other side has sent."""


def preload() -> None:
    """Loads libp2p, which takes half a second: for a program that has to wait for something else anyway."""
    import libp2p  # noqa: F401 - loading it is the point


def new_host(identity: Identity, psk: bytes | None = None) -> BasicHost:
    """A host with this identity, Noise and Yamux, that does nothing unasked and answers identify and ping; not running.

    Args:
        identity: Who it is.
        psk: What the peers of a private hive share; None for an open one.

    Raises:
        ConfigurationError: The shared key is too short.
    """
    import libp2p
    from libp2p.custom_types import TProtocol
    from libp2p.identity.identify_push.identify_push import ID_PUSH as IDENTIFY_PUSH
    from libp2p.network.config import ConnectionConfig, RetryConfig
    from libp2p.transport.upgrader import TransportUpgrader

    from hivemind_p2p.net.muxed_connection import MuxedConnection
    from hivemind_p2p.net.muxers import PROTOCOL, Muxers
    from hivemind_p2p.net.noise_transport import NoiseTransport

    _quieten()
    noise = NoiseTransport(identity, psk)
    security = {TProtocol(noise.protocol): noise}
    muxer = {TProtocol(PROTOCOL): MuxedConnection}
    host = libp2p.new_host(
        key_pair=noise.key_pair,
        sec_opt=security,
        muxer_opt=muxer,
        connection_config=ConnectionConfig(
            max_connections=MOST_CONNECTIONS,
            high_watermark=MOST_CONNECTIONS,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=MOST_OF_ONE_PEER,
        ),
        resource_manager=_resource_manager(),
        disable_identify_address_discovery=True,
    )
    network = host.get_network()
    # libp2p's host would ask each newcomer who it is, and take what any stranger pushes into its address book, which
    # nobody here reads: `identify` asks whom it wants to ask.
    network.notifees.clear()
    host.remove_stream_handler(IDENTIFY_PUSH)
    network.retry_config = RetryConfig(max_retries=0)  # a refused connection is known at once
    network.upgrader = TransportUpgrader(security, muxer)
    network.upgrader.muxer_multistream = Muxers(muxer, UPGRADE_TIMEOUT)
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


async def run_host(host: BasicHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Runs the host until it is cancelled. It listens nowhere: `accepting` does."""
    async with host.run([]):
        # It would dial whoever libp2p has heard of, up to half of MOST_CONNECTIONS.
        await host.get_network().auto_connector.stop()
        task_status.started()
        await trio.sleep_forever()


async def dial(swarm: Any, peer: PeerId, address: str, source: tuple[str, int] | None = None) -> Any:
    """Connects to a peer; libp2p's connection.

    The socket is opened here: libp2p's own dial knows no names, and tells failures in words of its own.

    Args:
        swarm: libp2p's, which makes a connection of the socket.
        peer: Who has to be there.
        address: Plain TCP.
        source: The IP address and port to call from, if that matters.

    Raises:
        NetworkError: There is no answer, or not that peer's; the message does not repeat the address.
    """
    from libp2p.io.trio import TrioTCPStream
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.peer.id import ID

    stream = await open_socket(address, source)
    connection = None
    try:
        raw = RawConnection(TrioTCPStream(stream), True)
        connection = await swarm.upgrade_outbound_raw_conn(raw, ID.from_base58(peer))
    except Exception as error:
        # libp2p and what it builds on raise many kinds here; all of them mean that this address is of no use.
        raise NetworkError(story(error)) from error
    finally:
        if connection is None:
            stream.socket.close()
    return connection


@cache
def errors() -> tuple[type[Exception], ...]:
    """Everything that libp2p's streams and connections raise when something is wrong with them."""
    from libp2p.exceptions import BaseLibp2pError

    return (BaseLibp2pError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, ValueError, KeyError)


def story(error: BaseException) -> str:
    """What happened in the end: libp2p wraps an error many times, and the innermost one says it."""
    from libp2p.exceptions import ParseError
    from libp2p.protocol_muxer.exceptions import MultiselectClientError

    while error.__cause__ is not None and not isinstance(error, NetworkError):
        error = error.__cause__
    if isinstance(error, ParseError):
        return "what is there is no peer"
    if isinstance(error, MultiselectClientError):
        return "it does not speak this hive's encryption: one side has a hive key, and the other has none"
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    return text if len(text) <= LONGEST_STORY else f"{text[:LONGEST_STORY]}..."
