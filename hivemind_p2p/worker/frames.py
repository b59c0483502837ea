"""What goes over the two pipes between the executor and its child.

Each frame is two big-endian 32-bit lengths, a protobuf header (`ChildRequest` down, `Report` up) and raw bytes (the
packed task down, the encoded value up). The child's first frame is empty: it says that the child is ready. The
executor trusts none of the child's lengths, since whatever runs in the child can write to the pipe.
"""

from __future__ import annotations

import struct
from typing import Final

PREFIX: Final = struct.Struct(">II")

MAX_HEADER_BYTES: Final = 256 << 10
"""Bytes of a header: a report with its traceback and output."""

MAX_MESSAGE: Final = 2_000
"""Characters of an error's message: a sentence or two."""

MAX_TRACEBACK: Final = 32_000
"""Characters of a traceback: a few hundred frames; of a longer one the end counts."""

MAX_OUTPUT: Final = 16_000
"""Bytes of what the work printed: the end of it, for a person to read."""
