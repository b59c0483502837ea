import pytest

from hivemind_p2p.net.reachability import Gateway
from hivemind_p2p.net.upnp import LEASE_SECONDS, STEP, TRIES, PortMapper


class Router:
    """miniupnpc's object, as far as it is used."""

    lanaddr = "192.168.1.5"

    def __init__(self, *, there=True, address="9.9.9.9", taken=()):
        self._there, self._address, self._taken = there, address, set(taken)
        self.asked, self.mapped = [], {}

    def discover(self):
        if not self._there:
            raise Exception("No UPnP device discovered")
        return 1

    def selectigd(self):
        return "http://router/"

    def externalipaddress(self):
        return self._address

    def addportmapping(self, outer, protocol, host, inner, description, remote, lease):
        self.asked.append(outer)
        if outer in self._taken:
            raise Exception("ConflictInMappingEntry")
        self.mapped[outer] = (host, inner, lease)
        return True

    def deleteportmapping(self, outer, protocol, remote):
        del self.mapped[outer]
        return True


def mapper(router):
    return PortMapper(make=lambda: router)


async def test_a_port_is_asked_for_with_a_lifetime_and_given_back():
    router = Router()
    port_mapper = mapper(router)
    mapping = await port_mapper.map(4001)
    assert (mapping.gateway, mapping.address) == (Gateway.MAPPED, "/ip4/9.9.9.9/tcp/4001")
    assert router.mapped == {4001: ("192.168.1.5", 4001, LEASE_SECONDS)}
    await port_mapper.unmap(mapping)
    assert router.mapped == {}


async def test_another_outer_port_is_taken_where_a_neighbour_has_the_first():
    mapping = await mapper(Router(taken=[4001])).map(4001)
    assert mapping.address == f"/ip4/9.9.9.9/tcp/{4001 + STEP}"


@pytest.mark.parametrize("port", [4001, 65_000])
async def test_a_router_that_gives_no_port_refuses(port):
    router = Router(taken=range(65_536))
    assert (await mapper(router).map(port)).gateway is Gateway.REFUSED
    assert 1 <= len(router.asked) <= TRIES
    assert max(router.asked) <= 65_535


@pytest.mark.parametrize("nonsense", ["", "not an address", None])
async def test_a_router_that_does_not_know_its_own_address_refuses(nonsense):
    assert (await mapper(Router(address=nonsense)).map(4001)).gateway is Gateway.REFUSED


async def test_without_a_router_there_is_none():
    port_mapper = mapper(Router(there=False))
    mapping = await port_mapper.map(4001)
    assert mapping.gateway is Gateway.ABSENT
    await port_mapper.unmap(mapping)
