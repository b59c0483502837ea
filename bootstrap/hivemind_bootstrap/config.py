"""What a bootstrap can be told; the flags of ``hivemind-bootstrap run``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hivemind_p2p import defaults
from hivemind_p2p.errors import ConfigurationError

HTTP_ADDRESS = "127.0.0.1:0"
"""Loopback and a free port: the status page is nobody else's business unless the operator says so."""

HIGHEST_PORT = 65_535


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
    """

    data: Path
    listen: tuple[str, ...] = (defaults.LISTEN_ADDRESS,)
    http: str = HTTP_ADDRESS
    welcome_credits: int = defaults.WELCOME_CREDITS
    open_registration: bool = True
    open_ledger: bool = False

    def __post_init__(self) -> None:
        split_host_port(self.http)
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
