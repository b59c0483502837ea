"""The keys of one direction of a connection after the Noise handshake: which cipher and nonce each packet gets.

ChaCha20-Poly1305 is what every peer speaks, and what libp2p's specification says. On processors with instructions for
AES, AES-256-GCM takes a fifth of its time (0.06 s of a core for each GiB in place of 0.3), so two peers that both have
them use that: each says so in the Noise handshake, in a field that others skip, and what is said there can be neither
read nor changed on the way. It costs no round trip, and a peer that does not say it is spoken to as ever.

AES-GCM grows weaker with all that one key has encrypted: after `PACKETS_A_KEY` each direction has its next key, by
Noise's own `REKEY`. That is 256 GiB, where TLS 1.3 (RFC 8446, section 5.5) changes it after 370 GB.

Source: the Noise Protocol Framework, revision 34, sections 4.2 (REKEY), 5.1 and 12.3, 12.4 (nonces).
"""

from __future__ import annotations

import hmac
import struct
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from hivemind_p2p.errors import ProtocolError

LAST_NONCE: Final = (1 << 64) - 2
"""2^64 - 1 is reserved (Noise, section 5.1). At a million packets a second that takes half a million years."""

PACKETS_A_KEY: Final = 1 << 22
"""Packets that one key of AES-256-GCM encrypts."""

Cipher: TypeAlias = AESGCM | ChaCha20Poly1305

_AES_DOMAIN: Final = b"hivemind_p2p noise aes-256-gcm packets 1"
_LITTLE_ENDIAN: Final = struct.Struct("<4xQ")
_BIG_ENDIAN: Final = struct.Struct(">4xQ")
_RESERVED: Final = bytes(4) + b"\xff" * 8


class PacketKeys:
    """Counts the packets of one direction.

    Args:
        key: 32 bytes, from the handshake.
        nonce: The number of the next packet.
        aes: Whether both sides have agreed on AES-256-GCM.
    """

    def __init__(self, key: bytes, nonce: int = 0, *, aes: bool = False) -> None:
        # Never the same key for two ciphers.
        self._key = hmac.digest(key, _AES_DOMAIN, "sha256") if aes else key
        self._aes = aes
        self._cipher: Cipher = AESGCM(self._key) if aes else ChaCha20Poly1305(key)
        self._pack = (_BIG_ENDIAN if aes else _LITTLE_ENDIAN).pack
        self.count = nonce

    def next(self) -> tuple[Cipher, bytes]:
        """The cipher of the next packet, which is counted with it, and its nonce.

        Raises:
            ProtocolError: There were as many packets as one connection is good for.
        """
        count = self.count
        if count > LAST_NONCE:
            raise ProtocolError("there were as many packets as one key is good for")
        if self._aes and count and count % PACKETS_A_KEY == 0:
            self._key = self._cipher.encrypt(_RESERVED, bytes(32), None)[:32]
            self._cipher = AESGCM(self._key)
        self.count = count + 1
        return self._cipher, self._pack(count)
