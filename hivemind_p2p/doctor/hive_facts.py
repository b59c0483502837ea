"""What the doctor measures of the hive: plain records without judgement. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hivemind_p2p.doctor.words import in_milliseconds, in_words


class Step(Enum):
    """How far the bootstrap was reached; each value is the one that the connection ended with."""

    UNNAMED = "unnamed"
    MALFORMED = "malformed"
    UNRESOLVED = "unresolved"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    NO_PEER = "no_peer"
    STALLED = "stalled"
    PRIVATE = "private"
    WRONG_KEY = "wrong_key"
    NOT_PRIVATE = "not_private"
    BAD_KEY_FILE = "bad_key_file"
    OTHER_PEER = "other_peer"
    MUTE = "mute"
    WELCOME = "welcome"


@dataclass(frozen=True, slots=True)
class BootstrapFact:
    """The way to the bootstrap.

    Attributes:
        step: How far it went.
        address: The address as it was given.
        place: Host and port for people, ``192.0.2.7, port 4001``.
        host: The host alone.
        local: Whether it is this very machine.
        expected: The end of the peer id that the address names.
        found: The end of the peer id that answered.
        seconds: One round trip.
        detail: What was wrong with the address or the key file, or what came instead of an answer.
    """

    step: Step
    address: str = ""
    place: str = ""
    host: str = ""
    local: bool = False
    expected: str = ""
    found: str = ""
    seconds: float = 0.0
    detail: str = ""

    @property
    def milliseconds(self) -> str:
        """The same for people."""
        return in_milliseconds(self.seconds)


@dataclass(frozen=True, slots=True)
class KeyFileFact:
    """The key file of a private hive, which could be read.

    Attributes:
        path: Where.
        fingerprint: Tells it from others.
        exposed: Whether others on this machine can read it.
    """

    path: str
    fingerprint: str
    exposed: bool


@dataclass(frozen=True, slots=True)
class ClockFact:
    """This machine's clock against the bootstrap's.

    Attributes:
        ahead: How far it is ahead; below zero where it is behind.
        uncertainty: How far `ahead` may be wrong.
    """

    ahead: float
    uncertainty: float

    @property
    def words(self) -> str:
        """For people: ``3 minutes ahead of`` or ``1 hour behind``."""
        return f"{in_words(abs(self.ahead))} {'ahead of' if self.ahead > 0 else 'behind'}"

    @property
    def bound(self) -> str:
        """Within how much the clocks agree, for people."""
        worst = abs(self.ahead) + self.uncertainty
        return "a second" if worst < 1 else in_words(worst)


@dataclass(frozen=True, slots=True)
class DirectoryFact:
    """A record published by one new peer and looked up by another.

    Attributes:
        found: Whether the other one found it.
        seconds: How long both took.
        detail: What went wrong.
    """

    found: bool
    seconds: float = 0.0
    detail: str = ""

    @property
    def milliseconds(self) -> str:
        """The same for people."""
        return in_milliseconds(self.seconds)


class Login(Enum):
    """What came of logging in."""

    NONE = "none"
    NO_PASSWORD = "no_password"  # noqa: S105 - there is none
    WELCOME = "welcome"
    REFUSED = "refused"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class AccountFact:
    """The account, as the bootstrap knows it.

    Attributes:
        login: What came of logging in.
        username: Whose.
        available: Credits that can be spent, as text.
        registers: Whether the settings say to make the account if there is none.
        detail: What the bootstrap said.
    """

    login: Login
    username: str = ""
    available: str = ""
    registers: bool = False
    detail: str = ""
