from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.hashing import (
    BLOCK,
    coarser_layer,
    hash_mapped,
    hash_span,
    piece_hash,
    piece_leaves,
    power_of_two,
    root_of_layer,
    verify_piece,
)


def reference_root(data: bytes) -> bytes:
    """BEP 52, said as plainly as possible: zero leaves up to a power of two, then pairs."""
    layer = [sha256(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    while len(layer) & (len(layer) - 1):
        layer.append(bytes(32))
    while len(layer) > 1:
        layer = [sha256(layer[at] + layer[at + 1]).digest() for at in range(0, len(layer), 2)]
    return layer[0]


@given(st.integers(1, 20 * BLOCK), st.sampled_from([BLOCK, 2 * BLOCK, 4 * BLOCK]), st.binary(min_size=1, max_size=7))
def test_the_root_does_not_depend_on_the_piece_length(length, piece_length, pattern):
    data = (pattern * (length // len(pattern) + 1))[:length]
    leaves = piece_leaves(length, piece_length)
    layer = [piece_hash(data[at : at + piece_length], leaves=leaves) for at in range(0, length, piece_length)]
    root = root_of_layer(b"".join(layer), piece_length) if length > piece_length else layer[0]
    assert root == reference_root(data)


@pytest.mark.parametrize("length", [1, BLOCK, BLOCK + 1, 3 * 1024 * 1024 + 5])
@pytest.mark.parametrize("hash_file", [hash_span, hash_mapped])
def test_a_file_hashes_like_its_bytes(tmp_path, length, hash_file):
    data = bytes(range(256)) * (length // 256 + 1)
    data = data[:length]
    path = tmp_path / "file"
    path.write_bytes(data)
    piece_length = 4 * BLOCK
    leaves = piece_leaves(length, piece_length)
    whole = hash_file(path, start=0, stop=length, leaves=leaves)
    pieces = [piece_hash(data[at : at + piece_length], leaves=leaves) for at in range(0, length, piece_length)]
    assert whole == b"".join(pieces)
    middle = min(piece_length, length)
    halves = [hash_file(path, start=a, stop=b, leaves=leaves) for a, b in [(0, middle), (middle, length)] if a < b]
    assert b"".join(halves) == whole


@pytest.mark.parametrize("hash_file", [hash_span, hash_mapped])
def test_a_file_that_shrank_is_noticed(tmp_path, hash_file):
    path = tmp_path / "file"
    path.write_bytes(b"short")
    with pytest.raises(EOFError):
        hash_file(path, start=0, stop=6, leaves=1)


def test_verify_tells_right_from_wrong():
    data = bytes(3 * BLOCK)
    expected = piece_hash(data, leaves=4)
    assert verify_piece(data, expected, leaves=4)
    assert verify_piece(memoryview(bytearray(data)), expected, leaves=4)
    assert not verify_piece(data[:-1] + b"\x01", expected, leaves=4)
    assert not verify_piece(b"", expected, leaves=4)
    assert not verify_piece(data + bytes(2 * BLOCK), expected, leaves=4)


@pytest.mark.parametrize(("number", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1025, 2048)])
def test_power_of_two(number, power):
    assert power_of_two(number) == power


@given(st.integers(1, 70 * BLOCK), st.integers(0, 3), st.integers(0, 4))
def test_a_layer_of_longer_pieces_follows_from_that_of_shorter_ones(length, shorter, steps):
    known, wanted = BLOCK << shorter, BLOCK << (shorter + steps)
    data = bytes(length)

    def layer(piece_length):
        leaves = piece_leaves(length, piece_length)
        return b"".join(
            piece_hash(data[at : at + piece_length], leaves=leaves) for at in range(0, length, piece_length)
        )

    assert coarser_layer(layer(known), file_length=length, known=known, wanted=wanted) == layer(wanted)
