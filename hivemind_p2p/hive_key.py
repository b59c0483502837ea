"""The key of a private hive: 32 bytes that every peer of it holds, and that a stranger does not.

It is mixed into each Noise handshake (a pre-shared key, Noise specification, section 9), so a peer without it is
refused before it can say anything. It lies in a text file of two lines, which says itself what it is:

    # hivemind_p2p hive key 1: whoever has this file can join the hive, so keep it secret
    3f6c...

The operator makes one with ``hivemind-peer new-hive-key``, runs the bootstrap with it, and gives a copy to each member.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from hivemind_p2p import telemetry
from hivemind_p2p.errors import HiveKeyError

KEY_BYTES = 32
FILE_MODE = 0o600
OTHERS = stat.S_IRWXG | stat.S_IRWXO

FIRST_WORDS = "# hivemind_p2p hive key"
VERSION = "1"
FIRST_LINE = f"{FIRST_WORDS} {VERSION}: whoever has this file can join the hive, so keep it secret"

LONGEST_FILE = 4096
"""Bytes: a file that is longer is something else, and is not read into memory to find that out."""

FINGERPRINT_DIGITS = 8
"""Enough to tell two keys apart on the telephone; tells nothing about the key."""

_events = telemetry.source("hive_key")


class HiveKey:
    """What the peers of a private hive share.

    Example:
        >>> key = HiveKey.generate()
        >>> len(key.secret), len(key.fingerprint)
        (32, 8)
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise HiveKeyError(f"a hive key has {KEY_BYTES} bytes, this has {len(secret)}")
        self.secret = secret

    @classmethod
    def generate(cls) -> HiveKey:
        """A new key from the system's randomness."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def load(cls, path: Path) -> HiveKey:
        """The key in a file. A file that others can read too is told in the log.

        Raises:
            HiveKeyError: There is no such file, it cannot be read, or it is no hive key.
        """
        key = cls.parse(_read(path), str(path))
        if others_may_read(path):
            _events.warning("hive_key_exposed", file=str(path), advice=f"chmod 600 {path}")
        return key

    @classmethod
    def parse(cls, text: str, where: str = "the text") -> HiveKey:
        """The key in the text of a key file.

        Raises:
            HiveKeyError: It is none; the message says what is wrong with it.
        """
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines or not lines[0].startswith(FIRST_WORDS):
            what = "a peer's identity key, not a hive key" if _is_hex(lines) else "no hive key"
            raise HiveKeyError(f"{where} is {what}: the first line of a hive key says so")
        version = lines[0].removeprefix(FIRST_WORDS).split(":")[0].strip()
        if version != VERSION:
            raise HiveKeyError(
                f"{where} is a hive key of version {version or '?'}, and this program knows version {VERSION}",
                hint="Update hivemind_p2p, or ask the hive's operator for the file again.",
            )
        if len(lines) != 2 or not _is_hex(lines[1:]):
            raise HiveKeyError(f"{where} has no second line of {2 * KEY_BYTES} hexadecimal digits")
        digits = len(lines[1])
        if digits != 2 * KEY_BYTES:
            raise HiveKeyError(f"the key in {where} has {digits} hexadecimal digits, not {2 * KEY_BYTES}: it was cut")
        return cls(bytes.fromhex(lines[1]))

    def write_new(self, path: Path) -> None:
        """Writes the key file, readable by its owner only.

        Raises:
            HiveKeyError: There is a file already, or it cannot be written.
        """
        if path.exists():
            raise HiveKeyError(
                f"{path} exists already", hint="Choose another name: a hive whose key is overwritten is lost."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not over a file that came into being this moment, either.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        except OSError as error:
            raise HiveKeyError(f"cannot write {path}: {error.strerror}", hint="Choose another folder.") from error
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.text())
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            # On a full disk: no key file is better than one with half a key in it.
            path.unlink()
            raise HiveKeyError(f"cannot write {path}: {error.strerror}", hint="Free some room.") from error

    def text(self) -> str:
        """What the key file says."""
        return f"{FIRST_LINE}\n{self.secret.hex()}\n"

    @property
    def fingerprint(self) -> str:
        """A few digits by which two people see that they have the same key."""
        return hashlib.sha256(b"hivemind_p2p hive key fingerprint\x00" + self.secret).hexdigest()[:FINGERPRINT_DIGITS]

    def __repr__(self) -> str:
        return f"HiveKey(fingerprint={self.fingerprint})"


def secret_of(path: Path | None) -> bytes | None:
    """The secret in a key file; None for a hive that is open to everybody.

    Raises:
        HiveKeyError: The file holds no key.
    """
    return None if path is None else HiveKey.load(path).secret


def others_may_read(path: Path) -> bool:
    """Whether the file's mode lets anybody but its owner at it."""
    return bool(path.stat().st_mode & OTHERS)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
    except FileNotFoundError as error:
        raise HiveKeyError(f"there is no hive key file {path}") from error
    except OSError as error:
        raise HiveKeyError(f"cannot read the hive key file {path}: {error.strerror}") from error
    if len(content) > LONGEST_FILE:
        raise HiveKeyError(f"{path} is no hive key: it is far too long for one")
    return content.decode(errors="replace")


def _is_hex(lines: list[str]) -> bool:
    try:
        return bool(lines) and len(lines) == 1 and bool(bytes.fromhex(lines[0]))
    except ValueError:
        return False
