"""What a bootstrap can be told; the flags of ``hivemind-bootstrap run``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hivemind_p2p import defaults
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.net.relay_book import RelayLimits

HTTP_ADDRESS = "127.0.0.1:0"
"""Loopback and a free port: the status page is nobody else's business unless the operator says so."""

HIGHEST_PORT = 65_535

TRACKERS = ("off", "hive", "open")
"""For whom the BitTorrent tracker works."""


@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """The settings of one bootstrap.

    Attributes:
        data: The folder of all its state: the key and the ledger.
        listen: Multiaddrs for peers.
        http: ``host:port`` of the status page.
        welcome_credits: Millionths of a credit that a new account is given.
        open_registration: Whether anybody may make an account.
        open_ledger: Whether every account sees the totals of all.
        relay: How much it relays for peers that cannot be called directly; None for nothing.
        tracker: The BitTorrent tracker: ``off``, ``hive`` for contents that peers share here, or ``open`` for all.
        tracker_http: ``host:port`` of the tracker; empty for that of the status page.
        tracker_url: The URL under which others reach the tracker, where it is not that address itself.
        hive_key: The key file of a private hive; None for a hive that is open to everybody.
    """

    data: Path
    listen: tuple[str, ...] = (defaults.LISTEN_ADDRESS,)
    http: str = HTTP_ADDRESS
    welcome_credits: int = defaults.WELCOME_CREDITS
    open_registration: bool = True
    open_ledger: bool = False
    tracker: str = "hive"
    tracker_http: str = ""
    tracker_url: str = ""
    hive_key: Path | None = None
    relay: RelayLimits | None = field(default_factory=RelayLimits)

    def __post_init__(self) -> None:
        split_host_port(self.http)
        if self.tracker not in TRACKERS:
            raise ConfigurationError(f"the tracker can be {', '.join(TRACKERS)}, not {self.tracker!r}")
        if self.tracker_http:
            split_host_port(self.tracker_http)
        if self.tracker_url and urlsplit(self.tracker_url).scheme not in {"http", "https"}:
            raise ConfigurationError(f"not a URL: {self.tracker_url!r}", hint="Write it like https://hive.example.org.")
        if self.welcome_credits < 0:
            raise ConfigurationError(f"welcome credits cannot be below zero: {self.welcome_credits}")


def split_host_port(text: str) -> tuple[str, int]:
    """The parts of ``host:port`` or ``[v6 address]:port``.

    Raises:
        ConfigurationError: It is neither.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare and bare == host) or not port.isdecimal() or int(port) > HIGHEST_PORT:
        raise ConfigurationError(f"not a host and port: {text!r}", hint="Write it like 127.0.0.1:8080 or [::1]:8080.")
    return bare, int(port)
