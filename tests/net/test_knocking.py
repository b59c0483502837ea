"""Knocking at real sockets on loopback: every way in which nobody, or somebody else, can be there."""

import socket
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from hivemind_p2p.errors import BootstrapUnreachableError, PrivateHiveError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import noise
from hivemind_p2p.net.knocking import MAX_READ, Knock, Outcome, explained, knock_at
from hivemind_p2p.net.negotiation import Chooser
from hivemind_p2p.types import PeerInfo

ME, HOST, OTHER = (Identity(letter * 32) for letter in (b"a", b"b", b"c"))
SECRET, ANOTHER = b"s" * 32, b"t" * 32


@asynccontextmanager
async def answering(handler):
    """The address of a listener whose connections `handler` gets."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        yield f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def peer(identity, secret=None):
    """Answers as a peer of an open or of a private hive does, up to the end of the handshake."""

    async def handle(stream):
        speaks = noise.PROTOCOL if secret is None else noise.PRIVATE_PROTOCOL
        chooser = Chooser(lambda name: name == speaks)
        key = None if secret is None else noise.shared_key(secret)
        shaking = noise.Handshake(noise.StaticKey(identity), key=key)
        async with stream:
            try:
                while chooser.chosen is None:
                    await stream.send_all(chooser.receive(await stream.receive_some() or hang_up()))
                data = chooser.rest()
                while shaking.agreed is None:
                    await stream.send_all(shaking.receive(data))
                    data = await stream.receive_some() or hang_up()
            except (noise.HandshakeError, trio.BrokenResourceError, EOFError):
                return

    return handle


def hang_up():
    raise EOFError


async def knock(address, *, expected=HOST, secret=None):
    with trio.fail_after(20):
        found = await knock_at(address, ME, expected.peer_id, secret=secret)
    assert (found.address, found.expected) == (address, expected.peer_id)
    return found


@pytest.mark.parametrize(
    ("theirs", "mine", "outcome"),
    [
        (None, None, Outcome.WELCOME),
        (SECRET, SECRET, Outcome.WELCOME),
        (SECRET, None, Outcome.PRIVATE),
        (SECRET, ANOTHER, Outcome.WRONG_KEY),
        (None, SECRET, Outcome.NOT_PRIVATE),
    ],
)
async def test_open_and_private_hives(theirs, mine, outcome):
    async with answering(peer(HOST, theirs)) as address:
        found = await knock(address, secret=mine)
    assert found.outcome is outcome
    assert found.found == (HOST.peer_id if outcome is Outcome.WELCOME else None)
    assert found.seconds >= 0


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_another_peer_is_named(secret):
    async with answering(peer(OTHER, secret)) as address:
        found = await knock(address, secret=secret)
    assert (found.outcome, found.found) == (Outcome.OTHER_PEER, OTHER.peer_id)


@pytest.mark.parametrize(
    ("theirs", "mine", "host", "kind", "words", "hint"),
    [
        (SECRET, None, HOST, PrivateHiveError, "this hive is private", "Ask its operator for the key file"),
        (SECRET, ANOTHER, HOST, PrivateHiveError, "the key in use is not", "present key file"),
        (None, SECRET, HOST, PrivateHiveError, "open to everybody", "Leave out --hive-key"),
        (None, None, OTHER, BootstrapUnreachableError, OTHER.peer_id, "present address"),
        (None, None, HOST, BootstrapUnreachableError, "it was so", "Check"),
    ],
)
async def test_an_error_is_explained(theirs, mine, host, kind, words, hint):
    before = BootstrapUnreachableError("it was so")
    async with answering(peer(host, theirs)) as address:
        error = await explained(before, PeerInfo(HOST.peer_id, (address,)), mine)
    assert type(error) is kind
    assert words in error.message
    assert hint in error.hint


async def test_nothing_to_explain_without_an_address():
    before = BootstrapUnreachableError("it was so")
    assert await explained(before, PeerInfo(HOST.peer_id), None) is before


async def test_a_real_transport_welcomes():
    from hivemind_p2p.net.transport import open_transport

    async with open_transport(HOST, ["/ip4/127.0.0.1/tcp/0"]) as transport:
        assert (await knock(transport.addresses[0])).outcome is Outcome.WELCOME


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"",
        b"\x13/multistream/1.0.0\n\x03na\n\x03na\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x05hello",
        b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff",
    ],
)
@pytest.mark.parametrize("secret", [None, SECRET])
async def test_what_is_no_peer(said, secret):
    async def handle(stream):
        async with stream:
            try:
                if said:
                    await stream.send_all(said)
                await stream.receive_some()
            except trio.BrokenResourceError:
                return

    async with answering(handle) as address:
        assert (await knock(address, secret=secret)).outcome is Outcome.NO_PEER


async def test_somebody_who_talks_without_end_is_left():
    async def handle(stream):
        line = b"\x13/multistream/1.0.0\n"
        try:
            await stream.send_all(line[:1])
            while True:
                await stream.send_all(b"\x00" * MAX_READ)
        except trio.BrokenResourceError:
            return

    async with answering(handle) as address:
        assert (await knock(address)).outcome is Outcome.NO_PEER


async def test_somebody_who_says_nothing(monkeypatch):
    monkeypatch.setattr("hivemind_p2p.net.knocking.HANDSHAKE_DEADLINE", 0.05)

    async def handle(stream):
        await stream.receive_some()
        await trio.sleep_forever()

    async with answering(handle) as address:
        assert (await knock(address)).outcome is Outcome.STALLED


async def test_nobody_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert (await knock(f"/ip4/127.0.0.1/tcp/{port}")).outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OSError(101, "Network is unreachable"), Outcome.UNREACHABLE),
        (OSError(113, "No route to host"), Outcome.UNREACHABLE),
        (TimeoutError(110, "Connection timed out"), Outcome.SILENT),
        (ConnectionRefusedError(111, "Connection refused"), Outcome.REFUSED),
    ],
)
async def test_what_the_system_says(monkeypatch, error, outcome):
    async def refuse(host, port, **_):
        raise OSError("all attempts to connect failed") from ExceptionGroup("tried", [error])

    monkeypatch.setattr(trio, "open_tcp_stream", refuse)
    assert (await knock("/ip4/192.0.2.1/tcp/1")).outcome is outcome


async def test_an_address_that_swallows_everything(monkeypatch, autojump_clock):
    async def wait(host, port, **_):
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", wait)
    monkeypatch.setattr(trio.socket, "getaddrinfo", numeric)
    assert (await knock("/ip4/192.0.2.1/tcp/1")).outcome is Outcome.SILENT


async def numeric(host, port, **_):
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
async def test_a_name_without_an_address(monkeypatch, error):
    async def fail(host, port, **_):
        raise error

    monkeypatch.setattr(trio.socket, "getaddrinfo", fail)
    assert (await knock("/dns4/hive.invalid/tcp/4001")).outcome is Outcome.UNRESOLVED


@pytest.mark.parametrize("address", ["", "/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1", "nonsense"])
async def test_an_address_that_is_none(address):
    assert await knock(address) == Knock(address, Outcome.MALFORMED, HOST.peer_id)
