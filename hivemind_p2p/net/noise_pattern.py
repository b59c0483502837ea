"""The Noise pattern XX: two strangers agree on keys, and learn each other's static key in secrecy.

    initiator                                  responder
    -> e                                       a new key for this conversation alone
    <- e, ee, s, es                            the same, and the static key, encrypted
    -> s, se                                   the initiator's static key, encrypted

Each message carries a payload, encrypted as soon as there is a key. Every key mixes in all that came before it, so
both sides have the same two keys in the end only if they have seen the same messages. With a pre-shared key (`psk0`)
the first message already needs it: a stranger is refused before it has heard anything.

Source: the Noise Protocol Framework, revision 34 (https://noiseprotocol.org/noise.html), sections 5, 7 and 9, with
Curve25519, ChaCha20-Poly1305 and SHA-256. Pure: keys come from the caller.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hivemind_p2p.errors import HandshakeError, ProtocolError
from hivemind_p2p.interfaces import Buffer

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
"""Poly1305's authentication tag, behind every ciphertext."""

NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
NAME_WITH_KEY: Final = b"Noise_XXpsk0_25519_ChaChaPoly_SHA256"

_MESSAGES: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
_NONCE: Final = struct.Struct("<4xQ")


class SymmetricState:
    """The chain of keys and the hash of everything said so far (section 5.2)."""

    def __init__(self, name: bytes) -> None:
        self.hash = name.ljust(KEY_BYTES, b"\0") if len(name) <= KEY_BYTES else hashlib.sha256(name).digest()
        self._chaining_key = self.hash
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0

    def _derive(self, material: bytes, outputs: int) -> list[bytes]:
        """HKDF as in section 4.3."""
        secret = hmac.digest(self._chaining_key, material, "sha256")
        found = [hmac.digest(secret, b"\x01", "sha256")]
        for index in range(2, outputs + 1):
            found.append(hmac.digest(secret, found[-1] + bytes((index,)), "sha256"))
        return found

    def _set_key(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = 0

    def mix_hash(self, data: Buffer) -> None:
        """Makes everything that follows depend on `data`."""
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, material: bytes) -> None:
        """Makes the keys depend on a shared secret."""
        self._chaining_key, key = self._derive(material, 2)
        self._set_key(key)

    def mix_key_and_hash(self, material: bytes) -> None:
        """Makes the keys and the hash depend on a pre-shared key."""
        self._chaining_key, extra, key = self._derive(material, 3)
        self.mix_hash(extra)
        self._set_key(key)

    def encrypt(self, plaintext: bytes) -> bytes:
        """The ciphertext, or the plaintext as it is while there is no key."""
        ciphertext = plaintext
        if self._cipher is not None:
            ciphertext = self._cipher.encrypt(_NONCE.pack(self._nonce), plaintext, self.hash)
            self._nonce += 1
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext.

        Raises:
            InvalidTag: It was encrypted with another key, or changed on the way.
        """
        plaintext = ciphertext
        if self._cipher is not None:
            plaintext = self._cipher.decrypt(_NONCE.pack(self._nonce), ciphertext, self.hash)
            self._nonce += 1
        self.mix_hash(ciphertext)
        return plaintext

    @property
    def overhead(self) -> int:
        """Bytes that a ciphertext is now longer than its plaintext."""
        return 0 if self._cipher is None else TAG_BYTES

    def split(self) -> tuple[bytes, bytes]:
        """The two keys of the conversation: from the initiator, and from the responder."""
        first, second = self._derive(b"", 2)
        return first, second


class Pattern:
    """One side of one handshake: `write` and `read` by turns, three messages in all.

    Args:
        initiator: Whether this side speaks first.
        static: This side's static key.
        ephemeral: A new key for this handshake alone; using one twice breaks its secrecy.
        shared_key: 32 bytes that the other side must have too; None where everybody may talk.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        ephemeral: X25519PrivateKey,
        shared_key: bytes | None = None,
    ) -> None:
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral
        self._shared_key = shared_key
        self._symmetric = SymmetricState(NAME if shared_key is None else NAME_WITH_KEY)
        self._symmetric.mix_hash(b"")  # the prologue, which libp2p leaves empty
        self._remote: dict[str, X25519PublicKey] = {}
        self._said = 0

    @property
    def remote_static(self) -> bytes:
        """The other side's static key, once it was read."""
        return self._remote["s"].public_bytes_raw()

    @property
    def remote_known(self) -> bool:
        """Whether the other side's static key was read."""
        return "s" in self._remote

    @property
    def handshake_hash(self) -> bytes:
        """The same on both sides in the end, and only there."""
        return self._symmetric.hash

    def keys(self) -> tuple[bytes, bytes]:
        """What this side encrypts with, and what it decrypts with."""
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def write(self, payload: bytes) -> bytes:
        """The next message, with a payload in it.

        Raises:
            ProtocolError: The key that the other side has sent is none.
        """
        symmetric = self._symmetric
        message = bytearray()
        self._begin_message()
        for step in _MESSAGES[self._said]:
            if step == "e":
                message += self._mix_ephemeral(self._ephemeral.public_key())
            elif step == "s":
                message += symmetric.encrypt(self._static.public_key().public_bytes_raw())
            else:
                symmetric.mix_key(self._exchange(step))
        message += symmetric.encrypt(payload)
        self._said += 1
        return bytes(message)

    def read(self, message: bytes) -> bytes:
        """The payload of the other side's next message.

        Raises:
            HandshakeError: It was encrypted with other keys, or changed on the way.
            ProtocolError: It is too short, or holds a key that is none.
        """
        try:
            return self._read(message)
        except InvalidTag as error:
            raise HandshakeError(self._story()) from error
        except ValueError as error:
            raise ProtocolError(f"message {self._said + 1} of the Noise handshake is malformed: {error}") from error

    def _read(self, message: bytes) -> bytes:
        symmetric = self._symmetric
        position = 0
        self._begin_message()
        for step in _MESSAGES[self._said]:
            if step not in ("e", "s"):
                symmetric.mix_key(self._exchange(step))
                continue
            size = KEY_BYTES + (symmetric.overhead if step == "s" else 0)
            field = message[position : position + size]
            if len(field) < size:
                raise ValueError(f"it ends after {len(message)} bytes")
            position += size
            if step == "e":
                self._remote["e"] = X25519PublicKey.from_public_bytes(field)
                self._mix_ephemeral(self._remote["e"])
            else:
                self._remote["s"] = X25519PublicKey.from_public_bytes(symmetric.decrypt(field))
        payload = symmetric.decrypt(message[position:])
        self._said += 1
        return payload

    def _begin_message(self) -> None:
        if self._shared_key is not None and self._said == 0:
            self._symmetric.mix_key_and_hash(self._shared_key)

    def _mix_ephemeral(self, key: X25519PublicKey) -> bytes:
        raw = key.public_bytes_raw()
        self._symmetric.mix_hash(raw)
        if self._shared_key is not None:
            self._symmetric.mix_key(raw)  # section 9.2: otherwise the first message would have no fresh key
        return raw

    def _exchange(self, step: str) -> bytes:
        """The Diffie-Hellman of two keys: the initiator's stands first in the name, the responder's second."""
        mine, theirs = (step[0], step[1]) if self._initiator else (step[1], step[0])
        own = self._ephemeral if mine == "e" else self._static
        try:
            return own.exchange(self._remote[theirs])
        except ValueError as error:
            # A point of small order: the secret would be the same for whatever key this side has.
            raise ProtocolError("the other side sent a key in the Noise handshake that gives no secret") from error

    def _story(self) -> str:
        if self._shared_key is not None and self._said < 2:
            return "the other side does not have this hive's key"
        return f"message {self._said + 1} of the Noise handshake was changed on the way"
