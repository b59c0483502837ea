from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.link import MOST_PLACES, Magnet, infohash_of, is_magnet, make_link, parse_magnet
from hivemind_p2p.errors import LinkError

HASH = bytes(range(32))
trackers = st.sampled_from(["http://192.0.2.7:80/announce", "udp://tracker.example:1337", "https://[::1]/a?b=c&d=é"])
peers = st.sampled_from(["192.0.2.7:6881", "[2001:db8::1]:1", "host.example:65535"])


@given(
    st.binary(min_size=32, max_size=32),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(trackers, unique=True).map(tuple),
    st.lists(peers, unique=True).map(tuple),
)
def test_reading_undoes_writing(infohash, name, trackers, peers):
    magnet = Magnet(infohash, name, trackers, peers)
    assert parse_magnet(str(magnet)) == magnet
    assert magnet.link == make_link(infohash, name)
    assert infohash_of(magnet.link) == infohash


def test_what_others_write_is_understood():
    link = (
        f"MAGNET:?xt=urn:btih:{'a' * 40}&xt=urn:btmh:1220{HASH.hex().upper()}&dn=a+b&xl=5&tr=http%3A%2F%2Ft.example%2Fa"
        "&tr=http%3A%2F%2Ft.example%2Fa&tr=file%3A%2F%2F%2Fetc%2Fpasswd&tr=http%3A%2F%2F&tr=x&x.pe=1.2.3.4:5"
        "&x.pe=1.2.3.4:0&x.pe=1.2.3.4:70000&x.pe=nothing&x.pe=%5B%3A%3A1%5D:7&ws=http%3A%2F%2Fseed.example"
    )
    assert parse_magnet(link) == Magnet(HASH, "a b", ("http://t.example/a",), ("1.2.3.4:5", "[::1]:7"))


def test_how_much_a_link_may_say_is_bounded():
    link = make_link(HASH, "") + "".join(f"&tr=http://t{n}.example/&x.pe=h{n}.example:1" for n in range(20))
    assert len(parse_magnet(link).trackers) == 20
    link = make_link(HASH, "") + "".join(f"&x.pe=h{n}:1" for n in range(60))
    assert len(parse_magnet(link).peers) == MOST_PLACES


def test_a_link_of_version_1_is_told_as_such():
    with pytest.raises(LinkError) as caught:
        parse_magnet(f"magnet:?xt=urn:btih:{'a' * 40}")
    assert "version 1" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "meant"), [("magnet:?x", True), (" MAGNET:", True), ("a.torrent", False), ("", False)]
)
def test_a_link_is_told_from_a_path(text, meant):
    assert is_magnet(text) is meant


@given(st.text(max_size=80).map(lambda text: f"magnet:?xt=urn:btmh:1220{HASH.hex()}&{text}"))
def test_fuzz_only_its_own_errors(link):
    with suppress(LinkError):
        assert len(parse_magnet(link).infohash) == 32
