"""Which paths a content may have: names that mean the same on every system and never leave the folder.

A manifest comes from a stranger, and its paths decide where bytes are written. What is refused here is refused both
when sharing and when fetching, so that what one peer shares every other can fetch, on Linux, macOS or Windows.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from hivemind_p2p.errors import UnsafePathError

LONGEST_NAME = 255
"""Bytes of one name in UTF-8: what the file systems in use hold."""

LONGEST_PATH = 1024
"""Bytes of a whole path in UTF-8: the shortest limit of the systems in use (macOS)."""

DEEPEST_PATH = 32
"""Names in a path: keeps the parser's depth bounded."""

_DIGITS = "123456789\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT THREE}"
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{device}{digit}" for device in ("com", "lpt") for digit in _DIGITS}
)
_FORBIDDEN = frozenset('/\\:*?"<>|')


def check_name(name: str) -> str:
    """The name itself, if it is safe as the name of a file or folder.

    Raises:
        UnsafePathError: It is empty, ``.`` or ``..``, too long, reserved on some system, or holds a separator, a
            control character or something that is no text.
    """
    if not name or name in {".", ".."}:
        raise UnsafePathError(f"not the name of a file: {name!r}")
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise UnsafePathError(f"a file name is no UTF-8 text: {name!r}") from error
    if len(encoded) > LONGEST_NAME:
        raise UnsafePathError(f"a file name has {len(encoded)} bytes, more than {LONGEST_NAME}: {name[:40]!r}...")
    if any(character in _FORBIDDEN or unicodedata.category(character) == "Cc" for character in name):
        raise UnsafePathError(f"a file name holds a separator or a control character: {name!r}")
    if name[-1] in ". " or name.partition(".")[0].rstrip().lower() in _DEVICES:
        raise UnsafePathError(f"a file name that some systems reserve: {name!r}")
    return name


def check_path(parts: Iterable[str]) -> str:
    """The parts of a path, checked and joined with ``/``.

    Raises:
        UnsafePathError: A part is unsafe, or the path is empty, too long or too deep.
    """
    names = [check_name(part) for part in parts]
    path = "/".join(names)
    if not names or len(names) > DEEPEST_PATH or len(path.encode()) > LONGEST_PATH:
        raise UnsafePathError(f"a path is empty, deeper than {DEEPEST_PATH} or longer than {LONGEST_PATH} bytes")
    return path


def check_siblings(names: Iterable[str]) -> None:
    """Checks that the names in one folder stay different where case or the form of accents does not count.

    Raises:
        UnsafePathError: Two of them would be the same file on such a system.
    """
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if folded in seen:
            raise UnsafePathError(f"two names that are one file on some systems: {seen[folded]!r} and {name!r}")
        seen[folded] = name
