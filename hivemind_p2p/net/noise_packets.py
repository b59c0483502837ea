"""What goes over a connection after the Noise handshake: encrypted packets, each with its length before it.

    offset  bytes            what
    0       2                L, the length of what follows, big-endian: at least 16
    2       L                ciphertext and a tag of 16 bytes; at most 65,519 bytes of plaintext

Packets are counted, each direction from zero; the count is the nonce, so a packet that is changed, dropped, repeated
or moved is noticed, and nothing after it is believed. Bytes in, bytes out: no sockets here.

**Copies** that a message of 4 MiB sees here. Sending: one, the encryption itself, from where its parts lie into the
room from which the socket sends. Only parts of up to `WORTH_JOINING` bytes are copied before, to share a packet.
Receiving: one, the decryption itself, from the room into which the socket reads to new memory that belongs to the
caller; besides, a packet that two reads have cut is put together first, which is one in four or less. The system
copies once more on each side, between the process and its socket.

**The cipher** is what the handshake has led to (`packet_keys`), by `cryptography`. Measured on packets of 65,519 bytes:
its AESGCM 17 to 20 GB/s; its ChaCha20Poly1305, by `encrypt_into` and `decrypt_into`, 3.5 GB/s, by `encrypt` and
`decrypt` 3.4 (a new object each), noiseprotocol's backend 3.4 (the same below), PyNaCl 1.3, PyCryptodome 0.55. Four
packets decrypted into one new buffer reach 3.3, decrypted one by one and joined 3.2. On 64 bytes: `encrypt` 0.7
microseconds, `encrypt_into` 0.9, PyNaCl 3.0.

Source: libp2p's Noise specification, "Wire format" (https://github.com/libp2p/specs/blob/master/noise/README.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net.noise_pattern import TAG_BYTES
from hivemind_p2p.net.packet_keys import LAST_NONCE, PacketKeys

LENGTH_BYTES: Final = 2
MOST_PLAINTEXT: Final = (1 << 16) - 1 - TAG_BYTES
"""Bytes of plaintext in one packet: the length has 16 bits and counts the tag."""

LONGEST_PACKET: Final = LENGTH_BYTES + MOST_PLAINTEXT + TAG_BYTES
ROOM_BYTES: Final = 4 * LONGEST_PACKET + 1024
"""What is encrypted before it is sent: large enough that a system call costs little, small enough for the cache. Four
full packets and a small one, as a muxer makes them of its largest frame and its head."""

WORTH_JOINING: Final = 16 * 1024
"""Bytes up to which copying a part into a packet with others costs less than a packet of its own: about a microsecond
to encrypt, as much to decrypt, and as much again in Python."""

_LENGTH: Final = struct.Struct(">H")


class Encryptor:
    """Makes packets of what is sent.

    Args:
        key: 32 bytes, from the handshake.
        nonce: The number of the next packet.
        aes: Whether both sides have agreed on AES-256-GCM.
    """

    def __init__(self, key: bytes, nonce: int = 0, *, aes: bool = False) -> None:
        self._keys = PacketKeys(key, nonce, aes=aes)

    def encrypt(self, parts: Iterable[Buffer], room: memoryview) -> Iterator[memoryview]:
        """Encrypts the parts as if they were one.

        Args:
            parts: Plaintext; not touched, and not needed any more once the iterator has ended.
            room: Where the packets are put, at least `LONGEST_PACKET` bytes.

        Yields:
            The filled part of `room`: whole packets, to be sent before the next are asked for.

        Raises:
            ProtocolError: As many packets were sent as one key is good for.
        """
        filled = 0
        for plaintext in _in_packets(parts):
            length = len(plaintext) + TAG_BYTES
            if filled + LENGTH_BYTES + length > len(room):
                yield room[:filled]
                filled = 0
            cipher, nonce = self._keys.next()
            _LENGTH.pack_into(room, filled, length)
            filled += LENGTH_BYTES
            cipher.encrypt_into(nonce, plaintext, None, room[filled : filled + length])
            filled += length
        if filled:
            yield room[:filled]


def _in_packets(parts: Iterable[Buffer]) -> Iterator[Buffer]:
    """The same bytes as pieces that fit into a packet. Neighbours that are small are joined."""
    small: list[Buffer] = []
    size = 0
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view) > WORTH_JOINING:
            if size:
                yield _joined(small)
                small, size = [], 0
            yield view[:MOST_PLAINTEXT]
            view = view[MOST_PLAINTEXT:]
        if size + len(view) > MOST_PLAINTEXT:
            yield _joined(small)
            small, size = [], 0
        if view:
            small.append(view)
            size += len(view)
    if size:
        yield _joined(small)


def _joined(parts: list[Buffer]) -> Buffer:
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Decryptor:
    """Takes bytes as they come and gives the plaintext of every packet that is complete.

    Holds at most one incomplete packet. Once a packet was bad, everything is refused.

    Args:
        key: 32 bytes, from the handshake.
        nonce: The number of the next packet.
        aes: Whether both sides have agreed on AES-256-GCM.
    """

    def __init__(self, key: bytes, nonce: int = 0, *, aes: bool = False) -> None:
        self._keys = PacketKeys(key, nonce, aes=aes)
        self._cut = bytearray()  # the beginning of a packet whose end has not come yet
        self._broken = ""

    @property
    def in_packet(self) -> bool:
        """Whether a packet has begun and not ended: the end of the connection would cut it off."""
        return bool(self._cut)

    def decrypt(self, data: Buffer) -> Buffer:
        """The plaintext of all packets that end in `data`, in memory that nobody else holds.

        Raises:
            ProtocolError: A packet is no packet, or was not encrypted by the other side for this place.
        """
        if self._broken:
            raise ProtocolError(self._broken)
        try:
            return self._decrypt(self._packets(memoryview(data).cast("B")))
        except InvalidTag as error:
            self._broken = f"packet {self._keys.count - 1} was changed on the way"
            raise ProtocolError(self._broken) from error

    def _packets(self, view: memoryview) -> list[memoryview]:
        """The ciphertexts that are complete; keeps the beginning of the one that is not."""
        packets = []
        if self._cut:
            view = self._take_missing(view)
            if self._missing():
                return []
            packets.append(memoryview(self._cut)[LENGTH_BYTES:])
            self._cut = bytearray()
        position, end = 0, len(view)
        while end - position >= LENGTH_BYTES:
            start = position + LENGTH_BYTES
            stop = start + self._length(view, position)
            if stop > end:
                break
            packets.append(view[start:stop])
            position = stop
        self._cut += view[position:]
        return packets

    def _take_missing(self, view: memoryview) -> memoryview:
        """Moves what the cut packet lacks from the front of `view`, first its length, then the rest."""
        while view and (missing := self._missing()):
            self._cut += view[:missing]
            view = view[missing:]
        return view

    def _missing(self) -> int:
        """Bytes that the cut packet lacks, as far as that is known."""
        if len(self._cut) < LENGTH_BYTES:
            return LENGTH_BYTES - len(self._cut)
        return LENGTH_BYTES + self._length(self._cut, 0) - len(self._cut)

    def _length(self, data: Buffer, position: int) -> int:
        length: int = _LENGTH.unpack_from(data, position)[0]
        if length < TAG_BYTES:
            self._broken = f"packet {self._keys.count} or a later one has {length} bytes, too few for its tag"
            raise ProtocolError(self._broken)
        return length

    def _decrypt(self, packets: list[memoryview]) -> Buffer:
        if self._keys.count + len(packets) > LAST_NONCE + 1:
            self._broken = "the other side has sent as many packets as one key is good for"
            raise ProtocolError(self._broken)
        if len(packets) == 1:
            return self._one(packets[0])
        plaintext = bytearray(sum(map(len, packets)) - TAG_BYTES * len(packets))
        room = memoryview(plaintext)
        start = 0
        for packet in packets:
            stop = start + len(packet) - TAG_BYTES
            cipher, nonce = self._keys.next()
            cipher.decrypt_into(nonce, packet, None, room[start:stop])
            start = stop
        return plaintext

    def _one(self, packet: memoryview) -> bytes:
        cipher, nonce = self._keys.next()
        return cipher.decrypt(nonce, packet, None)
