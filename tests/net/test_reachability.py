import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.reachability import (
    MOST_ADVERTISED,
    DialBack,
    Evidence,
    Gateway,
    NatKind,
    Observation,
    Reachability,
    candidates,
    decide,
)

BOOTSTRAP, OTHER, THIRD = (Identity(letter * 32).peer_id for letter in (b"b", b"o", b"t"))
HOME = "/ip4/192.168.1.5/tcp/4001"
PUBLIC = "/ip4/9.8.7.6/tcp/4001"
ROUTER = "/ip4/9.9.9.9/tcp/4001"
CIRCUIT = f"/ip4/8.8.8.8/tcp/4001/p2p/{BOOTSTRAP}/p2p-circuit"


def evidence(*, listening=(HOME,), seen=(), tried=(), **more):
    return Evidence(
        listening=listening,
        observations=tuple(Observation(observer, address, port) for observer, address, port in seen),
        dial_backs=tuple(DialBack(*each) for each in tried),
        trusted=frozenset({BOOTSTRAP}),
        **more,
    )


def test_without_evidence_nothing_is_known_and_interfaces_are_told():
    view = decide(evidence())
    assert (view.reachability, view.nat, view.needs_relay) == (Reachability.UNKNOWN, NatKind.UNKNOWN, False)
    assert view.advertised == (HOME,)


def test_a_peer_that_the_bootstrap_called_back_is_public():
    view = decide(evidence(listening=(PUBLIC,), seen=[(BOOTSTRAP, PUBLIC, 4001)], tried=[(BOOTSTRAP, PUBLIC, True)]))
    assert (view.reachability, view.nat, view.needs_relay) == (Reachability.PUBLIC, NatKind.NONE, False)


def test_a_firewall_without_translation_is_told_from_a_nat():
    view = decide(
        evidence(
            listening=(PUBLIC,),
            seen=[(BOOTSTRAP, PUBLIC, 4001)],
            tried=[(BOOTSTRAP, PUBLIC, False)],
            circuits=(CIRCUIT,),
        )
    )
    assert (view.reachability, view.nat) == (Reachability.PRIVATE, NatKind.BLOCKED)
    assert view.advertised == (CIRCUIT,)
    assert view.relayed


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        ([(BOOTSTRAP, ROUTER, 4001), (OTHER, ROUTER, 4001)], NatKind.CONE),
        ([(BOOTSTRAP, "/ip4/9.9.9.9/tcp/7", 4001), (OTHER, "/ip4/9.9.9.9/tcp/7", 4001)], NatKind.CONE),
        ([(BOOTSTRAP, "/ip4/9.9.9.9/tcp/7", 4001), (OTHER, "/ip4/9.9.9.9/tcp/8", 4001)], NatKind.SYMMETRIC),
        ([(BOOTSTRAP, ROUTER, 4001)], NatKind.CONE),
        ([(BOOTSTRAP, "/ip4/9.9.9.9/tcp/7", 4001)], NatKind.UNKNOWN),
        ([(BOOTSTRAP, "/ip4/9.9.9.9/tcp/7", 50_000), (OTHER, "/ip4/9.9.9.9/tcp/8", 50_001)], NatKind.UNKNOWN),
    ],
)
def test_the_kind_of_nat_is_told_by_the_ports_that_others_see(seen, kind):
    view = decide(evidence(seen=seen))
    assert view.nat is kind
    assert view.needs_relay


def test_a_full_cone_that_lets_callers_in_is_public_at_the_observed_address():
    view = decide(evidence(seen=[(BOOTSTRAP, ROUTER, 4001)], tried=[(BOOTSTRAP, ROUTER, True)], circuits=(CIRCUIT,)))
    assert (view.reachability, view.nat) == (Reachability.PUBLIC, NatKind.CONE)
    assert view.advertised == (ROUTER, HOME)


def test_a_mapped_port_is_told_until_somebody_fails_to_call_it():
    mapped = "/ip4/9.9.9.9/tcp/5000"
    seen = [(BOOTSTRAP, ROUTER, 4001)]
    assert decide(evidence(seen=seen, gateway=Gateway.MAPPED, mapped=mapped)).advertised[0] == mapped
    refuted = decide(evidence(seen=seen, mapped=mapped, tried=[(BOOTSTRAP, mapped, False)], circuits=(CIRCUIT,)))
    assert refuted.advertised == (HOME, CIRCUIT)


def test_strangers_have_to_agree():
    one = evidence(seen=[(OTHER, ROUTER, 4001)], tried=[(OTHER, ROUTER, True)])
    assert decide(one).reachability is Reachability.UNKNOWN
    two = evidence(seen=[(OTHER, ROUTER, 4001)], tried=[(OTHER, ROUTER, True), (THIRD, ROUTER, True)])
    assert decide(two).reachability is Reachability.PUBLIC


def test_the_bootstraps_word_outweighs_two_liars():
    tried = [(OTHER, ROUTER, True), (THIRD, ROUTER, True), (BOOTSTRAP, ROUTER, False)]
    assert decide(evidence(tried=tried)).reachability is Reachability.PRIVATE


def test_candidates_are_what_the_router_and_others_say_and_never_private_guesses():
    mapped = "/ip4/9.9.9.9/tcp/5000"
    assert candidates(evidence(seen=[(BOOTSTRAP, ROUTER, 4001)], mapped=mapped)) == (mapped, ROUTER)
    assert candidates(evidence()) == ()
    symmetric = evidence(seen=[(BOOTSTRAP, "/ip4/9.9.9.9/tcp/8", 4001), (OTHER, "/ip4/9.9.9.9/tcp/7", 4001)])
    assert candidates(symmetric) == (ROUTER,), "somebody may have forwarded the port by hand"
    assert candidates(evidence(seen=[(BOOTSTRAP, "/ip4/192.168.1.5/tcp/50000", 50_000)])) == (HOME,)


def test_a_public_ipv6_address_is_noticed():
    assert decide(evidence(listening=("/ip6/2600::1/tcp/4001",))).ip6
    assert not decide(evidence(listening=("/ip6/fd00::1/tcp/4001", PUBLIC))).ip6


_addresses = st.sampled_from([HOME, PUBLIC, ROUTER, "/ip4/9.9.9.9/tcp/7", "/ip6/2600::1/tcp/4001"])
_peers = st.sampled_from([BOOTSTRAP, OTHER, THIRD])


@given(
    listening=st.lists(_addresses, unique=True, max_size=12),
    seen=st.lists(st.tuples(_peers, _addresses, st.integers(0, 65535)), max_size=8),
    tried=st.lists(st.tuples(_peers, _addresses, st.booleans()), max_size=8),
    circuits=st.lists(st.just(CIRCUIT), unique=True),
)
def test_whatever_others_say_the_view_is_consistent(listening, seen, tried, circuits):
    view = decide(evidence(listening=tuple(listening), seen=seen, tried=tried, circuits=tuple(circuits)))
    assert len(view.advertised) <= MOST_ADVERTISED
    assert not (view.reachability is Reachability.PUBLIC and view.needs_relay)
    assert len(set(view.advertised)) == len(view.advertised)
    if view.needs_relay and circuits:
        assert view.advertised[-1] == CIRCUIT
