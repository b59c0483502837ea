"""Yamux frames as bytes: a header of twelve bytes, and behind a data frame its data.

    offset  bytes            what
    0       1                version, always 0
    1       1                type: 0 data, 1 window update, 2 ping, 3 go away
    2       2                flags: 1 SYN, 2 ACK, 4 FIN, 8 RST
    4       4                stream; 0 for ping and go away
    8       4                data: its length; window update: bytes granted; ping: a value; go away: a reason

All integers are big-endian.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md, with libp2p's notes
(https://github.com/libp2p/specs/blob/master/yamux/README.md).
"""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct(">BBHII")
HEADER_BYTES: Final = HEADER.size

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

NORMAL: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2

LARGEST_NUMBER: Final = 0xFFFF_FFFF

FIRST_WINDOW: Final = 256 * 1024
"""Bytes that each side of a new stream may send before it is granted more."""


def frame(kind: int, flags: int, stream: int, value: int) -> bytes:
    """The header of a frame."""
    return HEADER.pack(0, kind, flags, stream, value)
