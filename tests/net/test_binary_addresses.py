import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from hivemind_p2p.errors import AddressError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net import addresses, binary_addresses

PEER = Identity(b"p" * 32).peer_id
ADDRESSES = [
    "/ip4/192.0.2.7/tcp/4001",
    "/ip6/2001:db8::1/tcp/4001",
    "/dns4/hive.example.org/tcp/443/wss",
    "/dns/hive.example.org/tcp/1",
    "/dns6/hive.example.org/tcp/65535/ws",
    "/ip4/192.0.2.7/udp/4001/quic-v1/webtransport",
    f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
]
ports = st.integers(0, 65535)
plain = st.one_of(
    st.builds("/ip4/{}/tcp/{}".format, st.ip_addresses(v=4), ports),
    st.builds("/ip6/{}/tcp/{}".format, st.ip_addresses(v=6), ports),
    st.builds("/memory/{}".format, ports),
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_bytes_are_those_of_the_reference_library(address):
    assert binary_addresses.to_bytes(address) == Multiaddr(address).to_bytes()
    assert binary_addresses.to_text(Multiaddr(address).to_bytes()) == address


@given(plain)
def test_bytes_and_back(address):
    assert binary_addresses.to_text(binary_addresses.to_bytes(address)) == address


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data):
    try:
        text = binary_addresses.to_text(data)
    except AddressError:
        return
    assert addresses.parse(text)


@given(st.integers(0, 2**63 - 1))
def test_varints_and_back(number):
    data = binary_addresses.write_varint(number)
    assert binary_addresses.read_varint(b"x" + data + b"y", 1) == (number, len(data) + 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04\x01\x02",
        b"\xff" * 12,
        b"\x80",
        b"\x05\x01",
        b"\x36\x05ab",
        b"\xa5\x03\x02ab",
        bytes(binary_addresses.LONGEST + 1),
    ],
)
def test_what_is_no_address_is_refused(data):
    with pytest.raises(AddressError):
        binary_addresses.to_text(data)
