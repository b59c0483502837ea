import hashlib

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.dht import ids
from hivemind_p2p.types import PeerId

points = st.integers(0, 2**256 - 1).map(ids.NodeId)


def test_points_are_the_sha256_of_a_key_and_of_the_bytes_of_a_peer_id():
    peer = PeerId("12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5")
    assert ids.to_bytes(ids.of_key("offers")) == hashlib.sha256(b"offers").digest()
    assert ids.to_bytes(ids.of_peer(peer)) == hashlib.sha256(base58.b58decode(peer)).digest()


def test_made_up_names_have_points_as_well():
    assert ids.to_bytes(ids.of_peer(PeerId("peer 0"))) == hashlib.sha256(b"peer 0").digest()


@given(points)
def test_bytes_and_back(point):
    assert ids.from_bytes(ids.to_bytes(point)) == point


def test_a_point_has_32_bytes():
    with pytest.raises(ValueError, match="31"):
        ids.from_bytes(bytes(31))


@given(points, points, points)
def test_the_distance_is_a_metric(a, b, c):
    assert ids.distance(a, b) == ids.distance(b, a)
    assert (ids.distance(a, b) == 0) == (a == b)
    assert ids.distance(a, c) <= ids.distance(a, b) + ids.distance(b, c)


def test_buckets_count_the_shared_bits():
    own = ids.NodeId(0)
    assert ids.bucket_index(own, ids.NodeId(1 << 255)) == 0
    assert ids.bucket_index(own, ids.NodeId(1)) == 255
    with pytest.raises(ValueError):
        ids.bucket_index(own, own)


@given(points, st.integers(0, 255), st.integers(0, 2**256 - 1))
def test_a_random_point_lies_in_its_bucket(own, index, bits):
    assert ids.bucket_index(own, ids.in_bucket(own, index, bits)) == index
