"""Which cipher and nonce a packet gets: what was agreed on, a key that is never used for too much, no nonce twice."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.net import aes_speed
from hivemind_p2p.net.aes_speed import aes_is_faster
from hivemind_p2p.net.noise_packets import ROOM_BYTES, Decryptor, Encryptor
from hivemind_p2p.net.packet_keys import LAST_NONCE, PACKETS_A_KEY, PacketKeys

KEY = bytes(range(32))


def encrypted(keys, plaintext=b"hello"):
    cipher, nonce = keys.next()
    return cipher.encrypt(nonce, plaintext, None)


def test_the_standard_cipher_is_the_specifications():
    expected = ChaCha20Poly1305(KEY).encrypt(bytes(4) + (7).to_bytes(8, "little"), b"hello", None)
    assert encrypted(PacketKeys(KEY, 7)) == expected


def test_aes_has_a_key_of_its_own_and_noises_nonce():
    import hmac

    key = hmac.digest(KEY, b"hivemind_p2p noise aes-256-gcm packets 1", "sha256")
    expected = AESGCM(key).encrypt(bytes(4) + (7).to_bytes(8, "big"), b"hello", None)
    assert encrypted(PacketKeys(KEY, 7, aes=True)) == expected
    with pytest.raises(InvalidTag):
        AESGCM(KEY).decrypt(bytes(4) + (7).to_bytes(8, "big"), expected, None)


@pytest.mark.parametrize("aes", [False, True], ids=["chacha", "aes"])
def test_no_nonce_comes_twice(aes):
    keys = PacketKeys(KEY, aes=aes)
    assert len({keys.next()[1] for _ in range(1000)}) == 1000
    assert keys.count == 1000


def test_aes_changes_its_key_as_noise_says():
    keys = PacketKeys(KEY, PACKETS_A_KEY - 1, aes=True)
    before, _ = keys.next()
    after, nonce = keys.next()
    following = before.encrypt(bytes(4) + b"\xff" * 8, bytes(32), None)[:32]
    assert after.encrypt(nonce, b"hello", None) == AESGCM(following).encrypt(nonce, b"hello", None)
    assert keys.next()[0] is after


def test_both_sides_change_it_at_the_same_packet():
    encryptor, decryptor = (side(KEY, PACKETS_A_KEY - 3, aes=True) for side in (Encryptor, Decryptor))
    room = memoryview(bytearray(ROOM_BYTES))
    for number in range(6):
        packets = b"".join(bytes(filled) for filled in encryptor.encrypt([bytes([number]) * 9], room))
        assert decryptor.decrypt(packets) == bytes([number]) * 9


def test_the_standard_cipher_keeps_its_key():
    keys = PacketKeys(KEY, PACKETS_A_KEY - 1)
    assert keys.next()[0] is keys.next()[0]


def test_a_key_is_not_used_too_often():
    keys = PacketKeys(KEY, LAST_NONCE)
    keys.next()
    with pytest.raises(ProtocolError, match="as many packets"):
        keys.next()


@pytest.mark.parametrize(("seconds", "faster"), [({AESGCM: 4.0}, True), ({AESGCM: 6.0}, False)])
def test_aes_has_to_be_twice_as_fast(monkeypatch, seconds, faster):
    aes_is_faster.cache_clear()
    monkeypatch.setattr(aes_speed, "_seconds", lambda cipher: seconds.get(type(cipher), 10.0))
    assert aes_is_faster() is faster
    aes_is_faster.cache_clear()
