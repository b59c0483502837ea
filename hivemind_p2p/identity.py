"""Who a peer is: an Ed25519 key pair, its libp2p peer id, and signatures that name what they are for.

The peer id of an Ed25519 key holds the public key itself (libp2p peer id specification, "identity" multihash), so
anyone who knows a peer's id can check its signatures. Every signature covers a domain (what kind of thing was
signed) besides the bytes, so that a signed voucher can never pass for a signed record.
"""

from __future__ import annotations

import os
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hivemind_p2p.errors import IdentityError
from hivemind_p2p.types import PeerId

SEED_BYTES = 32
SIGNATURE_BYTES = 64
KEY_MODE = 0o600
# Multihash: identity (0x00), 36 bytes; protobuf PublicKey: Type = Ed25519 (1), Data = 32 bytes.
_PEER_ID_PREFIX = bytes.fromhex("00240801") + b"\x12\x20"
_PEER_ID_BYTES = len(_PEER_ID_PREFIX) + SEED_BYTES
_LONGEST_PEER_ID = 64


def _signed_bytes(domain: str, body: bytes) -> bytes:
    return b"hivemind_p2p\x00" + domain.encode() + b"\x00" + body


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, KEY_MODE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        # On a full disk: no key file is better than one with nothing in it.
        path.unlink()
        raise


class Identity:
    """An Ed25519 key pair.

    Example:
        >>> me = Identity.generate()
        >>> verify(me.peer_id, "greeting", b"hello", me.sign("greeting", b"hello"))
        True
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise IdentityError(f"an Ed25519 seed has {SEED_BYTES} bytes, this has {len(seed)}")
        self.seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key: bytes = self._key.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.public_key)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity from the system's randomness."""
        return cls(os.urandom(SEED_BYTES))

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity in a key file, made on first use with mode 0600.

        Raises:
            IdentityError: The file is no key, or cannot be read or written.
        """
        try:
            return cls(bytes.fromhex(path.read_text().strip()))
        except FileNotFoundError:
            return cls._create(path)
        except (OSError, ValueError) as error:
            raise IdentityError(f"cannot read the key file {path}: {error}") from error

    @classmethod
    def _create(cls, path: Path) -> Identity:
        identity = cls.generate()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(path, identity.seed.hex() + "\n")
        except FileExistsError:
            return cls.load_or_create(path)
        except OSError as error:
            raise IdentityError(
                f"cannot write the key file {path}: {error.strerror}", hint="Free some room, or choose another folder."
            ) from error
        return identity

    def sign(self, domain: str, body: bytes) -> bytes:
        """A 64-byte signature over a domain and a body."""
        return self._key.sign(_signed_bytes(domain, body))

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


def peer_id_of(public_key: bytes) -> PeerId:
    """The id of the peer that has this 32-byte Ed25519 public key."""
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


def public_key_of(peer_id: PeerId) -> bytes:
    """The 32-byte public key inside a peer id.

    Raises:
        IdentityError: It is not the id of an Ed25519 key.
    """
    if len(peer_id) > _LONGEST_PEER_ID:
        raise IdentityError("not the id of an Ed25519 peer: too long")
    try:
        raw = base58.b58decode(peer_id)
    except ValueError as error:
        raise IdentityError(f"not a peer id: {peer_id!r}") from error
    if len(raw) != _PEER_ID_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise IdentityError(f"not the id of an Ed25519 peer: {peer_id!r}")
    return raw[len(_PEER_ID_PREFIX) :]


def verify(signer: PeerId, domain: str, body: bytes, signature: bytes) -> bool:
    """Whether `signer` signed this body for this domain. Never raises."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key_of(signer))
        key.verify(signature, _signed_bytes(domain, body))
    except (InvalidSignature, IdentityError, ValueError):
        return False
    return True
