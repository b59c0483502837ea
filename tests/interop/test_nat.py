"""Peers behind real NATs, in network namespaces: what they find out, and who reaches whom how."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop import lab as labs
from tests.interop.lab import Lab, Nat
from tests.interop.lab_process import peers, wait_until

labs.skip_unless_possible()

SIZE = 300_000


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def start(tmp_path_factory, lab):
    with peers(tmp_path_factory.mktemp("peers")) as start:
        yield start


@pytest.fixture(scope="module")
def hive(lab, start):
    """A bootstrap that relays, a second witness, and one peer of each kind (two of those behind a NAT)."""
    bootstrap = start(lab.public_host(), limits={})
    witness = start(lab.public_host(), limits={})
    member = {"trusted": [bootstrap.address], "witnesses": [witness.address]}
    hosts = {
        "public": lab.public_host(),
        "full cone": lab.private_host(Nat.FULL_CONE),
        "other full cone": lab.private_host(Nat.FULL_CONE),
        "cone": lab.private_host(Nat.CONE),
        "other cone": lab.private_host(Nat.CONE),
        "symmetric": lab.private_host(Nat.SYMMETRIC),
        "other symmetric": lab.private_host(Nat.SYMMETRIC),
    }
    found = {name: start(host, **member) for name, host in hosts.items()}
    return {"bootstrap": bootstrap, "witness": witness} | found


def call(caller, called):
    """Connects by what the other side advertises, and has bytes go both ways."""
    relayed = caller.ask("connect", addresses=called.addresses())
    assert caller.ask("echo", peer=called.peer_id, size=SIZE)["relayed"] in (relayed, False)
    return relayed


def wait_for_direct(caller, called):
    wait_until(lambda: caller.ask("links", peer=called.peer_id), lambda links: False in links, caller.log)


@pytest.mark.parametrize(
    ("name", "reachability", "nat"),
    [
        ("public", "public", "none"),
        ("full cone", "public", "cone"),
        ("cone", "private", "cone"),
        ("symmetric", "private", "symmetric"),
    ],
)
def test_each_peer_finds_out_what_it_is_behind(hive, name, reachability, nat):
    view = hive[name].wait_for(lambda view: (view["reachability"], view["nat"]) == (reachability, nat))
    assert view["needs_relay"] is (reachability == "private")
    assert any("/p2p-circuit" in address for address in view["advertised"]) is view["needs_relay"]


@pytest.mark.parametrize("name", ["public", "full cone"])
def test_a_peer_that_can_be_called_is_called_directly(hive, name):
    outside = hive[name].host.outside
    view = hive[name].wait_for(lambda view: view["reachability"] == "public")
    assert view["advertised"][0] == f"/ip4/{outside}/tcp/4001"
    assert call(hive["witness"], hive[name]) is False


def test_a_public_peer_reaches_a_private_one_through_the_relay_which_then_calls_back(hive):
    hive["symmetric"].wait_for(lambda view: view["relayed"])
    hive["public"].wait_for(lambda view: view["reachability"] == "public")
    assert call(hive["public"], hive["symmetric"]) is True
    wait_for_direct(hive["public"], hive["symmetric"])
    assert hive["public"].ask("echo", peer=hive["symmetric"].peer_id, size=SIZE)["relayed"] is False


def test_two_full_cones_leave_the_relay(hive):
    caller, called = hive["other full cone"], hive["full cone"]
    addresses = called.ask("reserve", relay=hive["bootstrap"].address)
    assert caller.ask("connect", addresses=addresses) is True
    wait_for_direct(caller, called)
    assert caller.ask("echo", peer=called.peer_id, size=SIZE)["relayed"] is False


def test_two_cones_punch_a_hole_and_streams_over_the_relay_live_on(hive):
    hive["cone"].wait_for(lambda view: view["relayed"])
    hive["other cone"].wait_for(lambda view: view["relayed"])
    caller, called = hive["other cone"], hive["cone"]
    assert caller.ask("connect", addresses=called.addresses()) is True
    caller.ask("echo", peer=called.peer_id, size=SIZE, name="kept")
    wait_for_direct(caller, called)
    assert caller.ask("echo", peer=called.peer_id, size=SIZE)["relayed"] is False
    assert caller.ask("echo", peer=called.peer_id, size=SIZE, name="kept")["seconds"] > 0


def test_two_symmetric_ones_stay_with_the_relay(hive):
    caller, called = hive["symmetric"], hive["other symmetric"]
    for peer in (caller, called):
        peer.wait_for(lambda view: view["relayed"] and view["nat"] == "symmetric")
    assert call(caller, called) is True
    wait_until(lambda: called.ask("view"), lambda told: told["not_upgraded"] > 0, called.log)
    assert caller.ask("links", peer=called.peer_id) == [True]
    assert caller.ask("echo", peer=called.peer_id, size=SIZE)["relayed"] is True


def test_nobody_relays_over_a_relayed_connection(hive):
    caller, called = hive["symmetric"], hive["other symmetric"]
    for peer in (caller, called):
        peer.wait_for(lambda view: view["relayed"])
    caller.ask("connect", addresses=called.addresses())
    with pytest.raises(RuntimeError, match="does not speak"):
        caller.ask("hop", peer=called.peer_id)


def test_a_relay_keeps_to_its_limits(lab, start):
    limits = {"reservations": 1, "circuit_bytes": 2 * SIZE}
    relay = start(lab.public_host(), limits=limits)
    first = start(lab.private_host(Nat.SYMMETRIC), trusted=[relay.address])
    first.wait_for(lambda view: view["relayed"])
    second = start(lab.private_host(Nat.SYMMETRIC), trusted=[relay.address])
    refused = wait_until(lambda: relay.ask("view")["relay"]["refused"], bool, relay.log)
    assert refused
    assert not second.view()["circuits"]
    assert second.ask("connect", addresses=first.addresses()) is True
    assert second.ask("echo", peer=first.peer_id, size=SIZE)["relayed"] is True
    with pytest.raises(RuntimeError):
        second.ask("echo", peer=first.peer_id, size=2 * SIZE)
    wait_until(lambda: relay.ask("view")["relay"]["circuits"], lambda circuits: circuits == 0, relay.log)


def test_a_relay_that_is_restarted_has_its_peers_back(lab, start):
    host, caller_host = lab.public_host(), lab.public_host()
    relay = start(host, limits={}, seed=99)
    private = start(lab.private_host(Nat.SYMMETRIC), trusted=[relay.address])
    private.wait_for(lambda view: view["relayed"])
    relay.kill()
    private.wait_for(lambda view: not view["circuits"])
    again = start(host, limits={}, seed=99)
    assert again.peer_id == relay.peer_id
    private.wait_for(lambda view: view["relayed"])
    caller = start(caller_host)
    assert call(caller, private) is True


def test_a_second_relay_is_taken_when_the_first_has_no_place(lab, start):
    full = start(lab.public_host(), limits={"reservations": 0})
    willing = start(lab.public_host(), limits={})
    private = start(lab.private_host(Nat.SYMMETRIC), trusted=[full.address], relays=[willing.address])
    view = private.wait_for(lambda view: view["relayed"])
    assert [willing.peer_id in address for address in view["circuits"]] == [True]


def test_the_router_forwards_a_port_and_takes_it_back(lab, start, tmp_path):
    bootstrap = start(lab.public_host(), limits={})
    host = lab.private_host(Nat.SYMMETRIC)
    inside = host.address.rpartition(".")[0] + ".1"
    log = tmp_path / "gateway.log"
    script = str(Path(__file__).parent / "lab_gateway.py")
    command = ["ip", "netns", "exec", host.router, sys.executable, script, inside, host.outside]
    with log.open("wb") as stderr:
        gateway = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == b"ready\n"
        peer = start(host, trusted=[bootstrap.address], upnp=True)
        view = peer.wait_for(lambda view: view["reachability"] == "public")
        assert (view["gateway"], view["mapped"]) == ("mapped", f"/ip4/{host.outside}/tcp/4001")
        assert call(bootstrap, peer) is False
        peer.stop()
        wait_until(log.read_text, lambda text: text.count("POST") > 3, log)
        rules = subprocess.run(
            ["ip", "netns", "exec", host.router, "iptables", "-t", "nat", "-S", "PREROUTING"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "DNAT" not in rules
        assert re.search(r"lease [1-9]", log.read_text()), "a port for ever"
    finally:
        gateway.kill()
        gateway.communicate()


def test_a_lab_is_taken_down_when_something_fails():
    lab = Lab()

    def namespaces():
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        return [line for line in listed.splitlines() if line.startswith(f"{lab.name}-")]

    def fail():
        with lab:
            lab.private_host(Nat.CONE)
            assert len(namespaces()) == 3
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert namespaces() == []
