"""Noise as libp2p speaks it: both sides prove who they are, agree on keys, and encrypt everything from then on.

Participants: the peer that dials (initiator) and the one that was dialled (responder).

Messages: three, each with its length before it (2 bytes, big-endian); `noise_pattern` tells what is in them. In the
second and the third, each side tells its identity key, and a signature by it over its static Noise key. So whoever
holds the static key holds the identity, and the peer id that follows from it is a fact.

Goals: an initiator reaches the peer that it dialled or nobody. Whoever listens learns neither identity. Nothing is
believed that was not checked, and no more memory is taken than `LONGEST_MESSAGE`.

Non-goals: keys other than Ed25519 (all peers of a hive have such), early data, and the choice of a muxer inside the
handshake; what others send of it is skipped. One extension is used: two peers that both say so have AES-256-GCM
afterwards (`packet_keys`). It is part of the encrypted payloads, so nobody on the way can see, add or remove it.

A private hive has a secret that all its peers hold. There the handshake is `XXpsk0` under a protocol id of its own:
the secret is mixed in before the first message, so a stranger cannot even say that one, and hears no answer. (`psk3`
would tell a stranger who the responder is, and the initiator would not know that it was refused. Its advantage, a
different secret for each peer, is of no use here.) With it, whoever records handshakes can test guesses of the secret,
so the secret has to be random, not a password.

Sans-I/O: bytes in, bytes out. `noise_transport` does the input and the output, `noise_packets` what comes after.

Source: https://github.com/libp2p/specs/blob/master/noise/README.md
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError

from hivemind_p2p.errors import ConfigurationError, HandshakeError, ProtocolError
from hivemind_p2p.identity import SEED_BYTES, Identity, peer_id_of
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net.noise_packets import LENGTH_BYTES
from hivemind_p2p.net.noise_pattern import Pattern
from hivemind_p2p.proto.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from hivemind_p2p.types import PeerId

PROTOCOL: Final = "/noise"
PRIVATE_PROTOCOL: Final = "/hivemind/noise-psk/1"
"""What peers of a private hive speak, and nothing else."""

LONGEST_MESSAGE: Final = 4096
"""Bytes of one message of the handshake. Ours have up to 200; extensions and other keys would add some hundred."""

SHORTEST_SECRET: Final = 16
"""Bytes of a private hive's secret: fewer could be found by trying."""

_SIGNED: Final = b"noise-libp2p-static-key:"
_KEY_PREFIX: Final = bytes.fromhex("08011220")
"""libp2p's PublicKey message: Type = Ed25519 (1), Data = the 32 bytes that follow."""

_SECRET_DOMAIN: Final = b"hivemind_p2p noise pre-shared key 1"


def shared_key(secret: bytes) -> bytes:
    """The 32-byte pre-shared key that follows from a private hive's secret (HKDF-SHA256, RFC 5869, one block).

    Raises:
        ConfigurationError: The secret is so short that it could be guessed.
    """
    if len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"a hive's secret has at least {SHORTEST_SECRET} random bytes, this has {len(secret)}",
            hint="Make a new one from the system's randomness, and give it to every peer of the hive.",
        )
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, _SECRET_DOMAIN + b"\x01", "sha256")


class StaticKey:
    """A static Noise key, and the proof that it belongs to an identity. One serves all connections of a peer.

    Args:
        identity: Whose it is.
        private: For test vectors; by default a new one.
        aes: Whether it wants AES-256-GCM after the handshake, which it gets from peers that want it too.
    """

    def __init__(self, identity: Identity, private: X25519PrivateKey | None = None, *, aes: bool = False) -> None:
        self.aes = aes
        self.private = private or X25519PrivateKey.generate()
        signature = Ed25519PrivateKey.from_private_bytes(identity.seed).sign(
            _SIGNED + self.private.public_key().public_bytes_raw()
        )
        self.proof: bytes = NoiseHandshakePayload(
            identity_key=_KEY_PREFIX + identity.public_key,
            identity_sig=signature,
            extensions=NoiseExtensions(aes_packets=True) if self.aes else None,
        ).SerializeToString()


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a handshake has led to.

    Attributes:
        remote: Who is at the other end.
        sending: The key of what this side sends.
        receiving: The key of what the other side sends.
        rest: What the other side has sent behind the handshake.
        aes: Whether packets are encrypted with AES-256-GCM from now on.
    """

    remote: PeerId
    sending: bytes
    receiving: bytes
    rest: bytes
    aes: bool = False


class Handshake:
    """One side of a handshake: send what `start` gives, then what each `receive` gives, until `agreed` is there.

    Args:
        static: This side's static key.
        expected: The peer that was dialled. The side that names one is the initiator.
        key: The pre-shared key of a private hive, from `shared_key`; None where everybody may talk.
        ephemeral: For test vectors. Never use one twice.
    """

    def __init__(
        self,
        static: StaticKey,
        *,
        expected: PeerId | None = None,
        key: bytes | None = None,
        ephemeral: X25519PrivateKey | None = None,
    ) -> None:
        self._static = static
        self._expected = expected
        self._pattern = Pattern(
            initiator=expected is not None,
            static=static.private,
            ephemeral=ephemeral or X25519PrivateKey.generate(),
            shared_key=key,
        )
        self._unread = bytearray()
        self.agreed: Agreed | None = None

    def start(self) -> bytes:
        """What this side has to say at once; nothing for a responder."""
        return b"" if self._expected is None else _packet(self._pattern.write(b""))

    def receive(self, data: Buffer) -> bytes:
        """Takes what the other side has said, in whatever chunks.

        Returns:
            What to answer, mostly nothing.

        Raises:
            HandshakeError: The other side is not who it should be, or has no right to talk.
            ProtocolError: It says something that is no handshake.
        """
        self._unread += data
        answer = b""
        while self.agreed is None and (message := self._next_message()) is not None:
            answer += self._step(message)
        return answer

    def _next_message(self) -> bytes | None:
        if len(self._unread) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._unread[:LENGTH_BYTES])
        if length > LONGEST_MESSAGE:
            raise ProtocolError(f"a message of {length} bytes in the Noise handshake; {LONGEST_MESSAGE} are allowed")
        end = LENGTH_BYTES + length
        if len(self._unread) < end:
            return None
        message = bytes(self._unread[LENGTH_BYTES:end])
        del self._unread[:end]
        return message

    def _step(self, message: bytes) -> bytes:
        payload = self._pattern.read(message)
        if self._expected is None and not self._pattern.remote_known:
            return _packet(self._pattern.write(self._static.proof))  # the first message's payload means nothing
        remote, wants_aes = self._authenticated(payload)
        answer = b""
        if self._expected is not None:
            answer = _packet(self._pattern.write(self._static.proof))
        sending, receiving = self._pattern.keys()
        aes = wants_aes and self._static.aes
        self.agreed = Agreed(remote, sending, receiving, bytes(self._unread), aes)
        self._unread.clear()
        return answer

    def _authenticated(self, payload: bytes) -> tuple[PeerId, bool]:
        """Who has signed the static key that this handshake was made with, and whether it wants AES-256-GCM."""
        try:
            proof = NoiseHandshakePayload.FromString(payload)
        except DecodeError as error:
            raise ProtocolError("the proof of identity in the Noise handshake is malformed") from error
        key = proof.identity_key.removeprefix(_KEY_PREFIX)
        if len(key) != SEED_BYTES or len(proof.identity_key) != len(_KEY_PREFIX) + SEED_BYTES:
            raise HandshakeError("the other side's identity is no Ed25519 key; peers of a hive have such")
        remote = peer_id_of(key)
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(proof.identity_sig, _SIGNED + self._pattern.remote_static)
        except (InvalidSignature, ValueError) as error:
            raise HandshakeError(f"the other side claims to be {remote} and could not prove it") from error
        if self._expected not in (None, remote):
            raise HandshakeError(f"peer {remote} answered where {self._expected} was expected", found=remote)
        return remote, proof.extensions.aes_packets


def _packet(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES) + message
