"""Packets: whatever the parts and the chunks, what comes out is what went in; and nothing that was changed does."""

import random
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.net.noise_packets import (
    LONGEST_PACKET,
    MOST_PLAINTEXT,
    ROOM_BYTES,
    WORTH_JOINING,
    Decryptor,
    Encryptor,
)
from hivemind_p2p.net.packet_keys import LAST_NONCE

KEY = bytes(range(32))
FUZZ_INPUTS = 8000
SIZES = [0, 1, 12, 1000, WORTH_JOINING, WORTH_JOINING + 1, MOST_PLAINTEXT - 1, MOST_PLAINTEXT, MOST_PLAINTEXT + 1]


def wire(parts, *, nonce=0, room=ROOM_BYTES, aes=False):
    """What `parts` look like on the way."""
    filled = Encryptor(KEY, nonce, aes=aes).encrypt(parts, memoryview(bytearray(room)))
    return b"".join(bytes(packets) for packets in filled)


def lengths(data):
    """The lengths of the packets' plaintexts."""
    found, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from(">H", data, position)
        found.append(length - 16)
        position += 2 + length
    assert position == len(data)
    return found


def content(size):
    return random.Random(size).randbytes(size)


# -- what goes in comes out --------------------------------------------------------------------------------------------


def test_a_packet_is_what_the_specification_says():
    cipher = ChaCha20Poly1305(KEY)
    nonces = [bytes(4) + number.to_bytes(8, "little") for number in (0, 1)]
    expected = b"\x00\x15" + cipher.encrypt(nonces[0], b"hello", None)
    encryptor, room = Encryptor(KEY), memoryview(bytearray(ROOM_BYTES))
    assert [bytes(packets) for packets in encryptor.encrypt([b"hello"], room)] == [expected]
    again = b"\x00\x15" + cipher.encrypt(nonces[1], b"hello", None)
    assert [bytes(packets) for packets in encryptor.encrypt([b"hello"], room)] == [again]


def test_nothing_is_sent_for_nothing():
    assert wire([]) == wire([b"", b""]) == b""


@given(
    sizes=st.lists(st.sampled_from(SIZES) | st.integers(0, 3000), max_size=8),
    chunks=st.lists(st.sampled_from([1, 2, 3, 17, 65537, 262144]) | st.integers(1, 100_000), min_size=1, max_size=6),
    aes=st.booleans(),
)
def test_parts_and_chunks_do_not_matter(sizes, chunks, aes):
    parts = [content(size) for size in sizes]
    data = memoryview(wire(parts, aes=aes))
    decryptor, plaintext, turn = Decryptor(KEY, aes=aes), bytearray(), 0
    small = sum(chunks) < 100  # a chunk of one byte after another would take too long over all of it
    while data:
        size = len(data) if small and turn > 300 else chunks[turn % len(chunks)]
        plaintext += decryptor.decrypt(data[:size])
        data, turn = data[size:], turn + 1
    assert plaintext == b"".join(parts)
    assert not decryptor.in_packet


def test_byte_by_byte():
    decryptor, data = Decryptor(KEY), wire([b"a" * 40, content(70_000)[:300]])
    came = [bytes(decryptor.decrypt(data[index : index + 1])) for index in range(len(data))]
    assert came[-1] == b"a" * 40 + content(70_000)[:300]
    assert not any(came[:-1])


def test_small_parts_share_a_packet():
    assert lengths(wire([b"head", b"body", b"head", b"body" * 100])) == [412]


def test_a_large_part_is_not_joined_with_its_header():
    # That would copy 64 KiB to save 30 bytes. What is left over of it is joined with the next header.
    part = content(4 * MOST_PLAINTEXT + 68)
    assert lengths(wire([b"h" * 12, part, b"h" * 12, part])) == [
        12,
        *[MOST_PLAINTEXT] * 4,
        80,
        *[MOST_PLAINTEXT] * 4,
        68,
    ]


def test_packets_are_no_longer_than_the_length_can_say():
    assert max(lengths(wire([content(1 << 20)]))) == MOST_PLAINTEXT
    assert max(lengths(wire([content(WORTH_JOINING)] * 20))) <= MOST_PLAINTEXT


def test_views_of_any_kind_can_be_sent():
    numbers = memoryview(struct.pack("<4d", 1, 2, 3, 4)).cast("d")
    assert Decryptor(KEY).decrypt(wire([numbers, bytearray(b"abc")])) == bytes(numbers) + b"abc"


def test_the_room_is_filled_before_it_is_handed_out():
    filled = [len(packets) for packets in Encryptor(KEY).encrypt([content(1 << 20)], memoryview(bytearray(ROOM_BYTES)))]
    assert filled[:3] == [4 * LONGEST_PACKET] * 3
    one = [len(packets) for packets in Encryptor(KEY).encrypt([content(70_000)], memoryview(bytearray(LONGEST_PACKET)))]
    assert one == [LONGEST_PACKET, 70_000 - MOST_PLAINTEXT + 18]


def test_plaintext_belongs_to_the_caller():
    encrypted = bytearray(wire([b"first", content(70_000)]))
    plaintext = Decryptor(KEY).decrypt(encrypted)
    encrypted[:] = bytes(len(encrypted))
    assert plaintext == b"first" + content(70_000)


def test_an_empty_packet_is_nothing():
    empty = b"\x00\x10" + ChaCha20Poly1305(KEY).encrypt(bytes(12), b"", None)
    decryptor = Decryptor(KEY)
    assert decryptor.decrypt(empty) == b""
    assert decryptor.decrypt(wire([b"after"], nonce=1)) == b"after"


def test_a_packet_that_is_cut_off_is_known():
    decryptor, data = Decryptor(KEY), wire([b"hello"])
    assert decryptor.decrypt(data[:-1]) == b""
    assert decryptor.in_packet
    assert decryptor.decrypt(data[-1:]) == b"hello"
    assert not decryptor.in_packet


# -- what was changed does not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [2, 6, -1])
def test_a_changed_packet_is_refused_and_everything_after_it(index):
    data = bytearray(wire([b"hello"]))
    data[index] ^= 1
    decryptor = Decryptor(KEY)
    with pytest.raises(ProtocolError, match="packet 0 was changed"):
        decryptor.decrypt(data)
    with pytest.raises(ProtocolError, match="packet 0 was changed"):
        decryptor.decrypt(wire([b"hello"]))


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 2)], ids=["repeated", "swapped", "dropped"])
def test_packets_have_their_places(order):
    packets = [wire([bytes([number]) * 20], nonce=number) for number in range(3)]
    with pytest.raises(ProtocolError, match="was changed"):
        Decryptor(KEY).decrypt(b"".join(packets[number] for number in order))


@pytest.mark.parametrize("first", [0, 1], ids=["whole", "cut"])
def test_a_packet_too_short_for_its_tag_is_refused(first):
    decryptor, data = Decryptor(KEY), b"\x00\x0f" + bytes(15)
    assert decryptor.decrypt(data[:first]) == b""
    with pytest.raises(ProtocolError, match="15 bytes, too few"):
        decryptor.decrypt(data[first:])
    with pytest.raises(ProtocolError, match="15 bytes, too few"):
        decryptor.decrypt(wire([b"hello"]))


def test_the_other_direction_is_not_this_one():
    with pytest.raises(ProtocolError):
        Decryptor(bytes(32)).decrypt(wire([b"hello"]))


def test_a_key_is_not_used_too_often():
    last = wire([b"last"], nonce=LAST_NONCE)
    assert len(last) == 22
    encryptor = Encryptor(KEY, LAST_NONCE)
    room = memoryview(bytearray(ROOM_BYTES))
    assert len(list(encryptor.encrypt([b"last"], room))) == 1
    with pytest.raises(ProtocolError, match="as many packets as one key is good for"):
        list(encryptor.encrypt([b"one more"], room))

    decryptor = Decryptor(KEY, LAST_NONCE)
    assert decryptor.decrypt(last) == b"last"
    with pytest.raises(ProtocolError, match="as many packets as one key is good for"):
        decryptor.decrypt(last)


def test_garbage_is_refused_or_waited_for():
    """Random and mutated packets in random chunks: an error of ours, or a prefix of what was sent."""
    chance = random.Random(1)
    parts = [b"head" * 3, chance.randbytes(200), b"tail"]
    packets = wire(parts[:1]) + wire(parts[1:2], nonce=1) + wire(parts[2:], nonce=2)
    sent, refused = b"".join(parts), 0
    for _ in range(FUZZ_INPUTS):
        wrong = bytearray(packets) if chance.random() < 0.8 else bytearray(chance.randbytes(chance.randrange(300)))
        for _ in range(chance.randint(1, 3)):
            position = chance.randrange(len(wrong) + 1)
            match chance.randrange(3):
                case 0:
                    wrong[position:position] = chance.randbytes(chance.randint(1, 9))
                case 1:
                    del wrong[position : position + chance.randint(1, 9)]
                case _:
                    wrong[position : position + 1] = chance.randbytes(1)
        refused += refuses_or_waits(chance, wrong, sent)
    assert refused > FUZZ_INPUTS / 4


def refuses_or_waits(chance, wrong, sent):
    decryptor, plaintext = Decryptor(KEY), b""
    chunk = chance.choice([1 << 16, 64, 7])
    for position in range(0, len(wrong), chunk):
        try:
            plaintext += decryptor.decrypt(wrong[position : position + chunk])
        except ProtocolError:
            return 1
        finally:
            assert len(decryptor._cut) <= LONGEST_PACKET
            assert sent.startswith(plaintext)
    return 0
