"""The Noise handshake: with itself, with another implementation byte for byte, with strangers, and with garbage."""

import random
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from hivemind_p2p.errors import ConfigurationError, HandshakeError, ProtocolError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.noise import LONGEST_MESSAGE, Handshake, StaticKey, shared_key
from hivemind_p2p.net.noise_pattern import NAME, NAME_WITH_KEY, Pattern
from hivemind_p2p.proto.noise_pb2 import NoiseHandshakePayload

ALICE, BOB, EVE = (Identity(letter * 32) for letter in (b"a", b"b", b"e"))
STATIC = {who.peer_id: StaticKey(who, X25519PrivateKey.from_private_bytes(who.seed)) for who in (ALICE, BOB, EVE)}
HIVE_KEY, OTHER_KEY = shared_key(b"k" * 32), shared_key(b"o" * 32)
both_kinds = pytest.mark.parametrize("key", [None, HIVE_KEY], ids=["open", "private"])

FUZZ_HANDSHAKES = 2000
"""Inputs for each of the three readers of a handshake."""


def initiator(*, expected=BOB, key=None, who=ALICE, ephemeral=None):
    return Handshake(STATIC[who.peer_id], expected=expected.peer_id, key=key, ephemeral=ephemeral)


def responder(*, key=None, who=BOB, ephemeral=None):
    return Handshake(STATIC[who.peer_id], key=key, ephemeral=ephemeral)


def shake(dialling, dialled):
    """Carries messages to and fro until nobody has anything to say."""
    message = dialling.start()
    while message:
        message = dialled.receive(message)
        dialling, dialled = dialled, dialling


def private(number):
    return X25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def proving(payload):
    """A static key with a made-up proof of identity."""
    static = StaticKey(EVE, private(9))
    static.proof = payload
    return static


# -- both sides --------------------------------------------------------------------------------------------------------


@both_kinds
def test_both_learn_who_the_other_is_and_get_the_same_keys(key):
    alice, bob = initiator(key=key), responder(key=key)

    shake(alice, bob)

    assert alice.agreed.remote == BOB.peer_id
    assert bob.agreed.remote == ALICE.peer_id
    assert (alice.agreed.sending, alice.agreed.receiving) == (bob.agreed.receiving, bob.agreed.sending)
    assert alice.agreed.sending != alice.agreed.receiving
    assert alice.agreed.rest == bob.agreed.rest == b""


def test_two_handshakes_of_the_same_peers_have_different_keys():
    keys = []
    for _ in range(2):
        alice, bob = initiator(), responder()
        shake(alice, bob)
        keys += [alice.agreed.sending, alice.agreed.receiving]
    assert len(set(keys)) == 4


@given(data=st.data())
def test_chunks_do_not_matter_and_what_follows_is_kept(data):
    alice, bob = initiator(), responder()
    to_bob, to_alice, after = bytearray(alice.start()), bytearray(), b"the first packets"
    while bob.agreed is None:
        size = data.draw(st.integers(1, 120))
        to_alice += bob.receive(to_bob[:size])
        del to_bob[:size]
        to_bob += alice.receive(to_alice[:size])
        del to_alice[:size]
        if alice.agreed and after:
            to_bob, after = to_bob + after, b""

    assert bob.agreed.rest + to_bob == b"the first packets"


def test_neither_identity_can_be_read_on_the_way():
    alice, bob = initiator(), responder()
    first = alice.start()
    second = bob.receive(first)
    third = alice.receive(second)

    said = first + second + third
    statics = [STATIC[who.peer_id].private.public_key().public_bytes_raw() for who in (ALICE, BOB)]
    assert not [secret for secret in (ALICE.public_key, BOB.public_key, *statics) if secret in said]


def test_messages_are_as_short_as_the_protocol_allows():
    alice, bob = initiator(), responder()
    first = alice.start()
    second = bob.receive(first)
    proof = len(STATIC[BOB.peer_id].proof)
    assert len(first) == 2 + 32
    assert len(second) == 2 + 32 + (32 + 16) + (proof + 16)
    assert len(alice.receive(second)) == 2 + (32 + 16) + (proof + 16)


# -- the cipher of what follows ----------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(("alices", "bobs"), [(True, True), (True, False), (False, True), (False, False)])
def test_packets_are_aes_only_where_both_want_it(key, alices, bobs):
    alice = Handshake(StaticKey(ALICE, aes=alices), expected=BOB.peer_id, key=key)
    bob = Handshake(StaticKey(BOB, aes=bobs), key=key)
    shake(alice, bob)
    assert alice.agreed.aes is bob.agreed.aes is (alices and bobs)
    assert alice.agreed.sending == bob.agreed.receiving


def test_who_does_not_want_aes_says_nothing_of_it():
    plain, more = (NoiseHandshakePayload.FromString(StaticKey(ALICE, aes=aes).proof) for aes in (False, True))
    assert not plain.HasField("extensions")
    assert more.extensions.aes_packets


# -- another implementation, byte for byte -----------------------------------------------------------------------------


def reference(name, *, is_initiator, static, ephemeral, key):
    connection = NoiseConnection.from_name(name)
    if key is not None:
        connection.set_psks(key)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, bytes([static]) * 32)
    connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, bytes([ephemeral]) * 32)
    (connection.set_as_initiator if is_initiator else connection.set_as_responder)()
    connection.start_handshake()
    return connection


@pytest.mark.filterwarnings("ignore:One of ephemeral keypairs is already set")
@both_kinds
@pytest.mark.parametrize("is_initiator", [True, False])
@given(payloads=st.lists(st.binary(max_size=200), min_size=3, max_size=3))
def test_the_pattern_is_what_noiseprotocol_says(key, is_initiator, payloads):
    name = NAME if key is None else NAME_WITH_KEY
    ours = Pattern(initiator=is_initiator, static=private(1), ephemeral=private(2), shared_key=key)
    twin = reference(name, is_initiator=is_initiator, static=1, ephemeral=2, key=key)
    theirs = reference(name, is_initiator=not is_initiator, static=3, ephemeral=4, key=key)

    for index, payload in enumerate(payloads):
        if (index % 2 == 0) == is_initiator:
            message = ours.write(payload)
            assert message == bytes(twin.write_message(payload))
            assert bytes(theirs.read_message(message)) == payload
        else:
            message = bytes(theirs.write_message(payload))
            twin.read_message(message)
            assert ours.read(message) == payload

    assert ours.handshake_hash == theirs.get_handshake_hash()
    assert ours.remote_static == private(3).public_key().public_bytes_raw()
    state = twin.noise_protocol
    assert ours.keys() == (state.cipher_state_encrypt.k, state.cipher_state_decrypt.k)


def test_the_shared_key_follows_from_the_secret():
    # HKDF as `cryptography` has it, asked once: another domain or another secret gives another key.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived = HKDF(SHA256(), 32, salt=None, info=b"hivemind_p2p noise pre-shared key 1").derive(b"k" * 32)
    assert derived == HIVE_KEY
    assert HIVE_KEY != OTHER_KEY


def test_a_secret_that_could_be_guessed_is_refused():
    with pytest.raises(ConfigurationError, match="16 random bytes, this has 8"):
        shared_key(b"password")


# -- others than expected ----------------------------------------------------------------------------------------------


def test_somebody_else_answers():
    alice, eve = initiator(), responder(who=EVE)
    with pytest.raises(HandshakeError, match=f"{EVE.peer_id} answered where {BOB.peer_id} was expected"):
        shake(alice, eve)
    assert alice.agreed is None
    assert eve.agreed is None


@pytest.mark.parametrize("theirs", [None, OTHER_KEY], ids=["no key", "another key"])
def test_a_stranger_is_refused_at_the_first_message(theirs):
    bob = responder(key=HIVE_KEY)
    with pytest.raises(HandshakeError, match="does not have this hive's key") as caught:
        bob.receive(initiator(key=theirs).start() + bytes(16))
    assert "hive key" in caught.value.hint


@pytest.mark.parametrize("theirs", [None, OTHER_KEY], ids=["no key", "another key"])
def test_a_member_does_not_talk_to_a_stranger(theirs):
    alice, eve = initiator(key=HIVE_KEY), responder(who=EVE, key=theirs)
    alice.start()
    answer = eve.receive(initiator(key=theirs).start())
    with pytest.raises(HandshakeError, match="does not have this hive's key"):
        alice.receive(answer)


def test_a_recorded_first_message_leads_nowhere():
    recorded = initiator(key=HIVE_KEY).start()
    bob = responder(key=HIVE_KEY)
    answer = bob.receive(recorded)  # it cannot be told from a new one
    eve = initiator(key=HIVE_KEY, who=EVE)
    eve.start()
    with pytest.raises(HandshakeError):
        eve.receive(answer)  # even with the key: the answer is for whoever has made the recorded message
    with pytest.raises(HandshakeError):
        bob.receive(b"\x00\x90" + bytes(0x90))
    assert bob.agreed is None


def identity_of(who, signed):
    signature = Ed25519PrivateKey.from_private_bytes(who.seed).sign(signed)
    return NoiseHandshakePayload(identity_key=b"\x08\x01\x12\x20" + who.public_key, identity_sig=signature)


EVES_STATIC = b"noise-libp2p-static-key:" + private(9).public_key().public_bytes_raw()
PROOF = identity_of(EVE, EVES_STATIC)


@pytest.mark.parametrize(
    ("payload", "error", "story"),
    [
        (identity_of(ALICE, b"noise-libp2p-static-key:" + bytes(32)), HandshakeError, "claims to be .* not prove"),
        (identity_of(EVE, EVES_STATIC[1:]), HandshakeError, "could not prove"),
        (NoiseHandshakePayload(identity_key=PROOF.identity_key), HandshakeError, "could not prove"),
        (NoiseHandshakePayload(identity_key=b"\x08\x00\x12\x20" + EVE.public_key), HandshakeError, "no Ed25519"),
        (NoiseHandshakePayload(identity_key=PROOF.identity_key + b"\0"), HandshakeError, "no Ed25519"),
        (NoiseHandshakePayload(identity_key=EVE.public_key), HandshakeError, "no Ed25519"),
        (NoiseHandshakePayload(identity_key=b"\x08\x01\x12\x20" + b"\xff" * 32), HandshakeError, "could not prove"),
        (NoiseHandshakePayload(), HandshakeError, "no Ed25519"),
    ],
)
def test_an_identity_that_is_not_proven_is_refused(payload, error, story):
    liar = Handshake(proving(payload.SerializeToString()), expected=BOB.peer_id)
    bob = responder()
    with pytest.raises(error, match=story):
        shake(liar, bob)
    assert bob.agreed is None


def test_a_proof_that_is_no_protobuf_is_refused():
    with pytest.raises(ProtocolError, match="proof of identity"):
        shake(Handshake(proving(b"\xff\xff\xff"), expected=BOB.peer_id), responder())


def test_extensions_are_skipped():
    extensions = b"\x22\x0e" + b"\x12\x0c/yamux/1.0.0"  # field 4: stream_muxers
    eve, bob = Handshake(proving(PROOF.SerializeToString() + extensions), expected=BOB.peer_id), responder()
    shake(eve, bob)
    assert bob.agreed.remote == EVE.peer_id


def test_a_payload_in_the_first_message_is_ignored():
    pattern = Pattern(initiator=True, static=private(1), ephemeral=private(2))
    message = pattern.write(b"early")
    assert len(responder().receive(len(message).to_bytes(2) + message)) > 100


# -- garbage -----------------------------------------------------------------------------------------------------------


def test_a_message_that_is_too_long_is_refused_by_its_length_alone():
    with pytest.raises(ProtocolError, match=f"{LONGEST_MESSAGE + 1} bytes"):
        responder().receive((LONGEST_MESSAGE + 1).to_bytes(2))


def test_a_message_that_is_too_short_is_refused():
    with pytest.raises(ProtocolError, match="ends after 31 bytes"):
        responder().receive(b"\x00\x1f" + bytes(31))


def test_a_key_without_entropy_is_refused():
    # A point of small order: the shared secret would be zero, whatever the other side's key is.
    bob = responder()
    with pytest.raises(ProtocolError, match="gives no secret"):
        bob.receive(b"\x00\x20" + bytes(32))


@both_kinds
def test_every_byte_of_every_message_counts(key):
    ephemerals = {"ephemeral": private(5)}
    alice, bob = initiator(key=key, **ephemerals), responder(key=key, ephemeral=private(6))
    first = alice.start()
    second = bob.receive(first)
    for index in range(2, len(second), 7):
        again = initiator(key=key, **ephemerals)
        again.start()
        with pytest.raises((HandshakeError, ProtocolError)):
            again.receive(second[:index] + bytes([second[index] ^ 1]) + second[index + 1 :])
        assert again.agreed is None


def mutate(chance, message):
    changed = bytearray(message)
    for _ in range(chance.randint(1, 4)):
        position = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[position:position] = chance.randbytes(chance.randint(1, 40))
            case 1:
                del changed[position : position + chance.randint(1, 40)]
            case 2 if position < len(changed):
                changed[position] ^= 1 << chance.randrange(8)
            case _:
                changed += chance.randbytes(chance.randint(1, 300))
    return bytes(changed)


def garbage(chance, message):
    if chance.random() < 0.2:
        return chance.randbytes(chance.randrange(400))
    return mutate(chance, message)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_garbage_is_refused_or_waited_for(stage):
    """Whatever comes: an error of ours or patience, and never an agreement with somebody who has proven nothing."""
    chance = random.Random(stage)
    refused = 0
    for _ in range(FUZZ_HANDSHAKES):
        alice, bob = initiator(), responder()
        first = alice.start()
        reader, message = (bob, first)
        if stage > 1:
            second = bob.receive(first)
            reader, message = (alice, second)
        if stage > 2:
            reader, message = (bob, alice.receive(second))
        wrong = garbage(chance, message)
        try:
            reader.receive(wrong)
        except (HandshakeError, ProtocolError):
            refused += 1
        assert len(reader._unread) <= LONGEST_MESSAGE + 2
        assert reader.agreed is None or wrong.startswith(message)
    assert refused > FUZZ_HANDSHAKES / 4


@given(st.binary(max_size=600))
def test_random_bytes_never_raise_anything_else(data):
    for reader in (responder(), responder(key=HIVE_KEY), initiator()):
        reader.start()
        with suppress(HandshakeError, ProtocolError):
            reader.receive(data)
        assert reader.agreed is None
