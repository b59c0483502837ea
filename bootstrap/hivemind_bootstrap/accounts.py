"""Who may log in: the form of names and passwords, how passwords are hashed, and how often one may try.

The rules are pure; `PasswordKeeper` is slow on purpose (argon2id) and is called from a thread.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from hivemind_p2p.errors import AuthenticationError, BusyError

USERNAME = re.compile(r"[a-z0-9._-]{3,32}")
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 128

ATTEMPTS_PER_PEER = 10
ATTEMPTS_PER_NAME = 30
REGISTRATIONS = 120
"""Per `ATTEMPT_WINDOW`: failed logins of one peer, failed logins on one name by peers that are not linked to it, and
new accounts in all. Enough for every honest typo and for a class of students that arrives at once."""

ATTEMPT_WINDOW = 60.0
"""Seconds."""

MOST_KEYS = 10_000
"""Names and peers whose attempts are remembered: bounded, because peer ids cost nothing."""


def checked_username(username: str) -> str:
    """A username as it is kept.

    Raises:
        AuthenticationError: It is not of the right form.
    """
    name = username.strip().lower()
    if not USERNAME.fullmatch(name):
        raise AuthenticationError(
            "not a username", hint="A username has 3 to 32 characters: letters, digits, dot, underscore, hyphen."
        )
    return name


def check_password(password: str) -> None:
    """Checks a new password.

    Raises:
        AuthenticationError: It is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise AuthenticationError(
            "not an acceptable password", hint=f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters."
        )


class PasswordKeeper:
    """Hashes and checks passwords with argon2id.

    Args:
        time_cost: Passes; the defaults are OWASP's for argon2id: 2 passes over 19 MiB, about 20 ms.
        memory_cost: KiB.
    """

    def __init__(self, *, time_cost: int = 2, memory_cost: int = 19 * 1024) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_cost, parallelism=1)
        # What a name without an account is checked against, so that the time taken does not tell which names exist.
        self._nobody = self._hasher.hash("nobody's password")

    def hash(self, password: str) -> str:
        """What is stored of a password."""
        return self._hasher.hash(password)

    def matches(self, stored: str | None, password: str) -> bool:
        """Whether a password belongs to what is stored; always takes as long, also where nothing is."""
        try:
            self._hasher.verify(stored or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None


class AttemptLimiter:
    """Counts attempts in windows of `ATTEMPT_WINDOW` seconds. Pure: `now` is handed in."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def check(self, key: str, most: int, now: float) -> None:
        """Checks that another attempt is allowed.

        Raises:
            BusyError: There were `most` attempts in this window already.
        """
        started, count = self._windows.get(key, (now, 0))
        if now - started < ATTEMPT_WINDOW and count >= most:
            wait = ATTEMPT_WINDOW - (now - started)
            raise BusyError("too many attempts", hint=f"Wait {wait:.0f} seconds, then try again.")

    def count(self, key: str, now: float) -> None:
        """Counts an attempt."""
        started, count = self._windows.pop(key, (now, 0))
        if now - started >= ATTEMPT_WINDOW:
            started, count = now, 0
        self._windows[key] = (started, count + 1)
        while len(self._windows) > MOST_KEYS:
            self._windows.popitem(last=False)

    def take_back(self, key: str) -> None:
        """Uncounts one attempt, which succeeded; the failures of others stay counted."""
        started, count = self._windows.get(key, (0.0, 0))
        if count > 0:
            self._windows[key] = (started, count - 1)

    def forget(self, key: str) -> None:
        """Starts over, after a success."""
        self._windows.pop(key, None)
