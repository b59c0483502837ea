"""Knocking at an address to see who is there: how far a connection gets, step by step, and what that means.

    knock = await knock_at("/ip4/192.0.2.7/tcp/4001", identity, expected)
    knock.outcome    # refused, silent, other_peer, ... or welcome

A dial only says that it failed. This is for telling a person why: does the name have an address, does anything listen
there, does it speak this protocol, is the hive private, is it the peer that was expected. It makes one connection of
its own, without libp2p's host, and closes it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import trio

from hivemind_p2p.errors import (
    AddressError,
    BootstrapUnreachableError,
    HandshakeError,
    HivemindError,
    NotSpokenError,
    PrivateHiveError,
    ProtocolError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net import noise
from hivemind_p2p.net.addresses import tcp_endpoint
from hivemind_p2p.net.negotiation import Lines, Proposer, encode
from hivemind_p2p.net.sockets import cause_of
from hivemind_p2p.types import PeerId, PeerInfo

RESOLVE_DEADLINE: Final = 3.0
"""Seconds for a name: resolvers try their servers again after about this time."""

CONNECT_DEADLINE: Final = 3.0
"""Seconds for TCP: one lost packet is sent again after one second."""

HANDSHAKE_DEADLINE: Final = 3.0
"""Seconds for two round trips and a little computing."""

MAX_READ: Final = 64 * 1024


class Outcome(Enum):
    """How far a knock got."""

    MALFORMED = "malformed"
    """The address cannot be understood."""
    UNRESOLVED = "unresolved"
    """The name has no address."""
    REFUSED = "refused"
    """The machine is there, and nothing listens at the port."""
    UNREACHABLE = "unreachable"
    """There is no way to that network."""
    SILENT = "silent"
    """Nobody answered, not even to say no."""
    NO_PEER = "no_peer"
    """Something listens there that is no peer."""
    STALLED = "stalled"
    """Something accepts the connection and then says nothing."""
    PRIVATE = "private"
    """The hive is private, and this side has no key."""
    WRONG_KEY = "wrong_key"
    """The hive is private, and this side has another key."""
    NOT_PRIVATE = "not_private"
    """This side has a key, and the hive is open to everybody."""
    OTHER_PEER = "other_peer"
    """A peer answers, and it is not the expected one."""
    WELCOME = "welcome"
    """The expected peer."""


@dataclass(frozen=True, slots=True)
class Knock:
    """What came of it.

    Attributes:
        address: Where, without the peer.
        outcome: How far it got.
        expected: Who should be there.
        found: Who is there, as far as that was proven.
        seconds: How long the TCP connection took: about one round trip.
    """

    address: str
    outcome: Outcome
    expected: PeerId
    found: PeerId | None = None
    seconds: float = 0.0


class _DoorShutError(Exception):
    """The knock has led to an outcome before the end of the way."""

    def __init__(self, outcome: Outcome, found: PeerId | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.found = found


async def knock_at(address: str, identity: Identity, expected: PeerId, *, secret: bytes | None = None) -> Knock:
    """Knocks at one address; raises nothing that has to do with the network.

    Args:
        address: Plain TCP, a name or an IP address, without the peer.
        identity: Who knocks. Not a running peer's own: the other side might close that one's connection.
        expected: Who should be there.
        secret: The hive key, for a private hive.

    Returns:
        How far it got, within the sum of the three deadlines.
    """
    try:
        host, port = tcp_endpoint(address)
    except AddressError:
        return Knock(address, Outcome.MALFORMED, expected)
    start = 0.0
    end = 0.0
    try:
        places = await _resolve(host, port)
        start = trio.current_time()
        stream = await _connect(places)
        end = trio.current_time()
        async with stream:
            found = await _prove(stream, identity, expected, secret)
    except _DoorShutError as ended:
        return Knock(address, ended.outcome, expected, ended.found, max(0.0, end - start))
    return Knock(address, Outcome.WELCOME, expected, found, end - start)


async def explained(error: BootstrapUnreachableError, bootstrap: PeerInfo, secret: bytes | None) -> HivemindError:
    """The same error, or a better one where a knock tells what a dial does not.

    Args:
        error: What joining the hive has failed with.
        bootstrap: Who did not answer.
        secret: The hive key in use.
    """
    if not bootstrap.addresses:
        return error
    where = bootstrap.addresses[0]
    knock = await knock_at(where, Identity.generate(), bootstrap.peer_id, secret=secret)
    if knock.outcome is Outcome.PRIVATE:
        return PrivateHiveError(f"this hive is private: the bootstrap at {where} only lets in who has the hive's key")
    if knock.outcome is Outcome.WRONG_KEY:
        return PrivateHiveError(
            f"this hive is private, and the key in use is not that of the bootstrap at {where}",
            hint="Ask its operator for the present key file and pass it with --hive-key.",
        )
    if knock.outcome is Outcome.NOT_PRIVATE:
        return PrivateHiveError(
            f"a hive key is in use, and the hive of the bootstrap at {where} is open to everybody",
            hint="Leave out --hive-key, and hive_key in config.toml and the environment.",
        )
    if knock.outcome is Outcome.OTHER_PEER:
        return BootstrapUnreachableError(
            f"peer {knock.found} answers at {where}, where {bootstrap.peer_id} was expected",
            hint="Ask the hive's operator for the bootstrap's present address.",
        )
    return error


async def _resolve(host: str, port: int) -> list[tuple[str, int]]:
    try:
        with trio.fail_after(RESOLVE_DEADLINE):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, trio.TooSlowError) as error:
        raise _DoorShutError(Outcome.UNRESOLVED) from error
    return [(str(entry[4][0]), port) for entry in found]


async def _connect(places: Sequence[tuple[str, int]]) -> trio.SocketStream:
    """The first that answers. What the first one to fail says stands for all: mostly there is one."""
    worst = Outcome.SILENT
    with trio.move_on_after(CONNECT_DEADLINE):
        for host, port in places:
            try:
                return await trio.open_tcp_stream(host, port, happy_eyeballs_delay=1.0)
            except OSError as error:
                worst = _outcome_of(error)
    raise _DoorShutError(worst)


def _outcome_of(error: OSError) -> Outcome:
    cause = cause_of(error)
    if isinstance(cause, ConnectionRefusedError):
        return Outcome.REFUSED
    return Outcome.SILENT if isinstance(cause, TimeoutError) else Outcome.UNREACHABLE


async def _prove(stream: trio.SocketStream, identity: Identity, expected: PeerId, secret: bytes | None) -> PeerId:
    """Who is at the other end."""
    try:
        with trio.fail_after(HANDSHAKE_DEADLINE):
            await _agree(stream, private=secret is not None)
            return await _shake_hands(stream, identity, expected, secret)
    except trio.TooSlowError as error:
        raise _DoorShutError(Outcome.STALLED) from error
    except (trio.BrokenResourceError, ProtocolError) as error:
        raise _DoorShutError(Outcome.NO_PEER) from error


async def _agree(stream: trio.SocketStream, *, private: bool) -> None:
    """Agrees on Noise with or without a key, or finds out that the other side wants it the other way."""
    wanted, other = noise.PROTOCOL, noise.PRIVATE_PROTOCOL
    if private:
        wanted, other = other, wanted
    proposer = Proposer(wanted)
    try:
        await _converse(stream, proposer.start(), lambda data: proposer.receive(data) is not None)
    except NotSpokenError as error:
        if await _speaks(stream, other):
            raise _DoorShutError(Outcome.NOT_PRIVATE if private else Outcome.PRIVATE) from error
        raise


async def _speaks(stream: trio.SocketStream, protocol: str) -> bool:
    """Whether a side that has just refused one protocol takes another."""
    lines = Lines()
    agreed: list[bool] = []

    def take(data: Buffer) -> bool:
        lines.feed(data)
        while (line := lines.next()) is not None:
            agreed.append(line == protocol)
        return bool(agreed)

    await _converse(stream, encode(protocol), take)
    return agreed[0]


async def _shake_hands(stream: trio.SocketStream, identity: Identity, expected: PeerId, secret: bytes | None) -> PeerId:
    key = None if secret is None else noise.shared_key(secret)
    shaking = noise.Handshake(noise.StaticKey(identity), expected=expected, key=key)
    answers: list[bytes] = []

    def take(data: Buffer) -> bool:
        answers.append(shaking.receive(data))
        return shaking.agreed is not None

    try:
        await _converse(stream, shaking.start(), take)
        await stream.send_all(b"".join(answers))
    except HandshakeError as error:
        raise _DoorShutError(*_refused(error, private=secret is not None)) from error
    except (trio.BrokenResourceError, ProtocolError) as error:
        # A side with another key hangs up on the first message, without a word.
        raise _DoorShutError(Outcome.WRONG_KEY if secret is not None else Outcome.NO_PEER) from error
    assert shaking.agreed is not None
    return shaking.agreed.remote


def _refused(error: HandshakeError, *, private: bool) -> tuple[Outcome, PeerId | None]:
    if error.found:
        return Outcome.OTHER_PEER, PeerId(error.found)
    return (Outcome.WRONG_KEY if private else Outcome.NO_PEER), None


async def _converse(stream: trio.SocketStream, first: bytes, take: Callable[[Buffer], bool]) -> None:
    """Says something, then hands over what comes until that is enough."""
    await stream.send_all(first)
    heard = 0
    while heard <= MAX_READ:
        data = await stream.receive_some(MAX_READ)
        if not data:
            raise ProtocolError("it hung up")
        heard += len(data)
        if take(data):
            return
    raise ProtocolError("it talks without end")
