"""Multiaddrs: what is understood, and that nothing else gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import AddressError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.addresses import (
    by_relay_only,
    circuit_addresses,
    ip_address,
    ip_endpoint,
    is_circuit,
    is_dialable,
    join_peer,
    on_each_interface,
    parse,
    relay_of,
    render,
    split_peer,
    tcp_endpoint,
)
from hivemind_p2p.types import PeerInfo

PEER = Identity(b"a" * 32).peer_id
RELAY = Identity(b"b" * 32).peer_id

GOOD = [
    "/ip4/127.0.0.1/tcp/4001",
    "/ip6/::1/tcp/0",
    "/dns4/bootstrap.example.org/tcp/4001",
    "/dns/localhost/tcp/65535",
    "/ip4/1.2.3.4/udp/4001/quic-v1",
    f"/ip4/1.2.3.4/tcp/4001/p2p/{RELAY}/p2p-circuit",
    "/memory/12",
]
BAD = [
    "",
    "/",
    "127.0.0.1:4001",
    "/ip4",
    "/ip4/",
    "/ip4/256.0.0.1/tcp/1",
    "/ip4/localhost/tcp/1",
    "/ip6/127.0.0.1/tcp/1",
    "/ip4/127.0.0.1/tcp",
    "/ip4/127.0.0.1/tcp/65536",
    "/ip4/127.0.0.1/tcp/-1",
    "/ip4/127.0.0.1/tcp/٣",
    "/ip4/127.0.0.1/tcp/1/p2p/nobody",
    "/ip4//tcp/1",
    "/carrier-pigeon/1",
    "/dns4/two..dots/tcp/1",
    "/dns4/-x/tcp/1",
    "/ip4/127.0.0.1/tcp/1" + "/ws" * 400,
]


@pytest.mark.parametrize("address", GOOD)
def test_good_addresses_survive_parsing(address):
    assert render(parse(address)) == address


@pytest.mark.parametrize("address", BAD)
def test_bad_addresses_are_told(address):
    with pytest.raises(AddressError):
        parse(address)
    assert not is_dialable(address)


@given(st.text(max_size=60) | st.lists(st.sampled_from(["ip4", "tcp", "p2p", "1.2.3.4", "7", ""])).map("/".join))
def test_any_text_is_understood_or_an_address_error(text):
    for address in (text, "/" + text):
        try:
            parts = parse(address)
        except AddressError:
            continue
        assert parse(render(parts)) == parts


@pytest.mark.parametrize("address", GOOD)
def test_the_peer_is_split_off_and_joined_again(address):
    info = split_peer(f"{address}/p2p/{PEER}")
    assert info == PeerInfo(PEER, (address,))
    assert join_peer(info) == (f"{address}/p2p/{PEER}",)


def test_a_peer_without_a_place_has_no_address():
    assert split_peer(f"/p2p/{PEER}") == PeerInfo(PEER, ())


@pytest.mark.parametrize("address", ["/ip4/1.2.3.4/tcp/1", f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit"])
def test_an_address_without_a_peer_cannot_be_split(address):
    with pytest.raises(AddressError, match="/p2p/"):
        split_peer(address)


def test_endpoints():
    assert tcp_endpoint("/ip6/::1/tcp/7") == ("::1", 7)
    with pytest.raises(AddressError, match="plain TCP"):
        tcp_endpoint("/ip4/1.2.3.4/udp/1/quic-v1")


@pytest.mark.parametrize(
    ("address", "dialable"),
    [("/ip4/1.2.3.4/tcp/1", True), ("/ip4/1.2.3.4/tcp/0", False), ("/memory/1", False), (f"/p2p/{PEER}", False)],
)
def test_what_can_be_dialled(address, dialable):
    assert is_dialable(address) is dialable


def test_a_listener_everywhere_is_dialled_at_each_interface():
    interfaces = ("127.0.0.1", "192.168.1.5", "::1", "fe80::1", "2001:db8::5")
    assert on_each_interface("/ip4/0.0.0.0/tcp/7", interfaces) == ("/ip4/192.168.1.5/tcp/7",)
    assert on_each_interface("/ip6/::/tcp/7", interfaces) == ("/ip6/2001:db8::5/tcp/7",)
    assert on_each_interface("/ip4/0.0.0.0/tcp/7", ("127.0.0.1",)) == ("/ip4/127.0.0.1/tcp/7",)
    assert on_each_interface("/ip4/127.0.0.1/tcp/7", interfaces) == ("/ip4/127.0.0.1/tcp/7",)


RELAY_PLACES = PeerInfo(RELAY, ("/ip4/9.9.9.9/tcp/4001", "/ip4/10.0.0.1/tcp/0"))
CIRCUIT = f"/ip4/9.9.9.9/tcp/4001/p2p/{RELAY}/p2p-circuit"


def test_an_address_through_a_relay_is_written_and_read():
    assert circuit_addresses(RELAY_PLACES) == (CIRCUIT,)
    assert relay_of(CIRCUIT) == relay_of(f"{CIRCUIT}/p2p/{PEER}") == PeerInfo(RELAY, RELAY_PLACES.addresses[:1])
    assert split_peer(f"{CIRCUIT}/p2p/{PEER}") == PeerInfo(PEER, (CIRCUIT,))


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/9.9.9.9/tcp/4001",
        f"/p2p/{RELAY}/p2p-circuit",
        f"/ip4/9.9.9.9/udp/4001/p2p/{RELAY}/p2p-circuit",
        f"/ip4/9.9.9.9/tcp/0/p2p/{RELAY}/p2p-circuit",
        f"{CIRCUIT}/p2p/{PEER}/p2p-circuit",
    ],
)
def test_what_leads_through_no_relay_at_a_plain_place_is_refused(address):
    assert not is_circuit(address)
    with pytest.raises(AddressError):
        relay_of(address)


def test_a_peer_is_relayed_when_none_of_its_own_addresses_is_public():
    assert by_relay_only(("/ip4/192.168.1.5/tcp/1", CIRCUIT))
    assert not by_relay_only(("/ip4/9.8.7.6/tcp/1", CIRCUIT))
    assert not by_relay_only(("/ip4/192.168.1.5/tcp/1",))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("9.9.9.9", "/ip4/9.9.9.9/tcp/7"),
        ("::ffff:9.9.9.9", "/ip4/9.9.9.9/tcp/7"),
        ("fe80::1%eth0", "/ip6/fe80::1/tcp/7"),
    ],
)
def test_a_socket_address_becomes_a_multiaddr(host, address):
    assert ip_address(host, 7) == address


def test_a_name_is_no_ip_address():
    with pytest.raises(AddressError):
        ip_address("example.org", 7)
    with pytest.raises(AddressError):
        ip_endpoint("/dns4/example.org/tcp/7")
