import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.dht import networks


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (("/ip4/8.8.8.8/tcp/1",), {"8.8.8.0/24"}),
        (("/ip4/8.8.8.9/tcp/1", "/ip4/8.8.4.4/tcp/1"), {"8.8.8.0/24", "8.8.4.0/24"}),
        (("/ip6/2001:4860:4860:1::8888/tcp/1",), {"2001:4860:4860::/48"}),
        (("/ip6/::ffff:8.8.8.8/tcp/1",), {"8.8.8.0/24"}),
        (("/dns4/example.org/tcp/1",), {"names"}),
        (("/ip4/127.0.0.1/tcp/1", "/ip4/10.1.2.3/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip6/::1/tcp/1"), set()),
        (("/ip4/100.64.0.1/tcp/1", "/ip6/fe80::1/tcp/1", "/memory/7"), set()),
        (("/ip4/nonsense/tcp/1", "/ip4", "", "ip4/8.8.8.8"), set()),
    ],
)
def test_the_networks_of_addresses(addresses, expected):
    assert networks.of_addresses(addresses) == expected


@given(st.text(max_size=60))
def test_no_address_is_too_odd(address):
    assert networks.of_addresses((address, f"/ip4/{address}", f"/ip6/{address}/tcp/1")) <= {
        *networks.of_addresses((f"/ip4/{address}",)),
        *networks.of_addresses((f"/ip6/{address}/tcp/1",)),
        *networks.of_addresses((address,)),
    }
