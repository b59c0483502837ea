"""TCP connections by address: names, and failures in plain words."""

import errno
import socket

import pytest
import trio

from hivemind_p2p.errors import AddressError, NetworkError
from hivemind_p2p.net.sockets import open_socket, port_is_taken, resolved


@pytest.mark.parametrize("host", ["ip4/127.0.0.1", "dns4/localhost", "dns/localhost"])
async def test_an_address_may_be_a_name(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with await open_socket(f"/{host}/tcp/{server.getsockname()[1]}") as stream:
            assert stream.socket.getpeername() == server.getsockname()


async def test_a_port_where_nobody_listens_is_told_in_plain_words():
    with socket.socket() as unused:  # bound, and not listening: nobody else gets it meanwhile
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(NetworkError, match="nothing listens there"):
            await open_socket(f"/ip4/127.0.0.1/tcp/{unused.getsockname()[1]}")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "there is no way to that network"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "there is no way to that network"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "no answer"),
        (socket.gaierror(-2, "Name or service not known"), "the name has no address"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("odd"), "odd"),
    ],
)
async def test_each_failure_has_its_words(monkeypatch, failure, words):
    async def fail(host, port):
        raise OSError("all attempts failed") from ExceptionGroup("several", [failure])

    monkeypatch.setattr(trio, "open_tcp_stream", fail)
    with pytest.raises(NetworkError) as caught:
        await open_socket("/dns4/hive.example/tcp/4001")
    assert caught.value.message == words


async def test_a_name_that_cannot_be_a_name_is_a_failure_like_others():
    with pytest.raises(NetworkError):
        await open_socket(f"/dns4/{'a' * 64}.example/tcp/1")


async def test_a_port_that_is_in_use_towards_there_is_known_for_what_it_is():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(NetworkError) as caught:
            await open_socket(f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}", taken.getsockname())
        assert port_is_taken(caught.value)
    assert not port_is_taken(ConnectionRefusedError(errno.ECONNREFUSED, "no"))


async def test_only_an_ip_address_can_be_called_from_a_chosen_port():
    with pytest.raises(AddressError):
        await open_socket("/dns4/localhost/tcp/1", ("127.0.0.1", 1))


async def test_a_name_stands_for_ip_addresses_of_its_kind():
    assert await resolved("/dns4/localhost/tcp/7") == ("/ip4/127.0.0.1/tcp/7",)
    assert await resolved("/ip4/192.0.2.7/tcp/7") == ("/ip4/192.0.2.7/tcp/7",)
    with pytest.raises(NetworkError):
        await resolved("/dns6/192.0.2.7/tcp/7")
