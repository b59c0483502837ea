"""Measures the hive: the way to the bootstrap, its clock, the directory, the account.

All of it as a new peer that is forgotten afterwards, never as this folder's own: that one may be running, and the
bootstrap would take two connections of one peer for one.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from hivemind_p2p.config import Settings
from hivemind_p2p.credits.client import AccountClient
from hivemind_p2p.dht.service import DirectoryService
from hivemind_p2p.doctor.findings import Unmeasured
from hivemind_p2p.doctor.hive_facts import (
    AccountFact,
    BootstrapFact,
    ClockFact,
    DirectoryFact,
    KeyFileFact,
    Login,
    Step,
)
from hivemind_p2p.doctor.machine_probes import short
from hivemind_p2p.doctor.reachability_probe import try_reachability
from hivemind_p2p.errors import (
    AccountRequiredError,
    AddressError,
    AuthenticationError,
    HiveKeyError,
    HivemindError,
    NetworkError,
    ProtocolError,
)
from hivemind_p2p.hive_key import HiveKey, others_may_read
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.addresses import split_peer, tcp_endpoint
from hivemind_p2p.net.clock import ClockDifference, ask_clock
from hivemind_p2p.net.knocking import knock_at
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.types import PeerId, PeerInfo, format_credits

DEADLINE: Final = 6.0
"""Seconds for each question to a bootstrap that has answered the door."""

RECORD_LIFETIME: Final = 30.0
"""Seconds: the test entry is withdrawn at once, and forgotten by everybody after this time in any case."""

SHOWN: Final = 6
"""Last characters of a peer id, as everywhere where people read them."""

Tell = Callable[[object], None]
"""Takes facts as they are found."""


@dataclass(frozen=True, slots=True)
class _Hive:
    """What has to be known to join."""

    bootstrap: PeerInfo
    secret: bytes | None


def key_file(path: Path | None) -> tuple[bytes | None, KeyFileFact | None]:
    """The hive key, and what is to be said of its file.

    Raises:
        HiveKeyError: The file holds none.
    """
    if path is None:
        return None, None
    key = HiveKey.load(path)
    return key.secret, KeyFileFact(str(path), key.fingerprint, others_may_read(path))


async def hive(settings: Settings, tell: Tell) -> None:
    """Everything that has to do with the hive, each fact as soon as it is known."""
    try:
        secret, file = key_file(settings.hive_key)
    except HiveKeyError as error:
        _give_up(tell, BootstrapFact(Step.BAD_KEY_FILE, detail=short(error.message)))
        return
    if file is not None:
        tell(file)
    if settings.bootstrap is None:
        _give_up(tell, BootstrapFact(Step.UNNAMED))
        return
    try:
        bootstrap = split_peer(settings.bootstrap)
        host, number = tcp_endpoint(bootstrap.addresses[0] if bootstrap.addresses else "")
    except AddressError as error:
        _give_up(tell, BootstrapFact(Step.MALFORMED, settings.bootstrap, detail=short(error.message)))
        return
    knock = await knock_at(bootstrap.addresses[0], Identity.generate(), bootstrap.peer_id, secret=secret)
    fact = BootstrapFact(
        Step(knock.outcome.value),
        settings.bootstrap,
        place=f"{host}, port {number}",
        host=host,
        local=_is_local(host),
        expected=bootstrap.peer_id[-SHOWN:],
        found=(knock.found or "")[-SHOWN:],
        seconds=knock.seconds,
    )
    if fact.step is not Step.WELCOME:
        _give_up(tell, fact)
        return
    await _ask_around(settings, _Hive(bootstrap, secret), fact, tell)


def _give_up(tell: Tell, fact: BootstrapFact) -> None:
    tell(fact)
    for check in ("clock", "directory", "account", "reachability"):
        tell(Unmeasured(check, "the bootstrap has to answer first", because_of="bootstrap"))


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _ask_around(settings: Settings, hive: _Hive, fact: BootstrapFact, tell: Tell) -> None:
    async with _joined(hive) as (network, identity):
        ahead = 0.0
        try:
            difference = await ask_clock(network, hive.bootstrap.peer_id, time.time)
        except ProtocolError:
            tell(fact)
            tell(Unmeasured("clock", "the bootstrap does not tell the time, it may be older", because_of="bootstrap"))
        except NetworkError as error:
            _give_up(tell, replace(fact, step=Step.MUTE, detail=short(error.message)))
            return
        else:
            tell(fact)
            tell(_clock_fact(difference))
            ahead = difference.ahead
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_try_directory, hive, network, identity, ahead, tell)
            nursery.start_soon(_try_account, settings, hive.bootstrap.peer_id, network, tell)
            nursery.start_soon(try_reachability, settings, hive.bootstrap, hive.secret, fact.local, tell)


def _clock_fact(difference: ClockDifference) -> ClockFact:
    return ClockFact(difference.ahead, difference.uncertainty)


@asynccontextmanager
async def _joined(hive: _Hive) -> AsyncIterator[tuple[Router, Identity]]:
    """A new peer that dials and cannot be dialled."""
    identity = Identity.generate()
    async with open_transport(identity, (), psk=hive.secret) as transport, trio.open_nursery() as nursery:
        network = Router(transport, nursery)
        network.learn(hive.bootstrap)
        yield network, identity
        nursery.cancel_scope.cancel()


async def _try_directory(hive: _Hive, network: Router, identity: Identity, ahead: float, tell: Tell) -> None:
    """One new peer publishes, another one looks it up."""

    def clock() -> float:
        return time.time() - ahead  # as the peer itself corrects it

    start = trio.current_time()
    key, value = f"doctor/{identity.peer_id}", secrets.token_bytes(16)
    found = False
    detail = ""
    try:
        with trio.fail_after(DEADLINE):
            async with _joined(hive) as (other_network, other_identity):
                publisher = DirectoryService(network, identity, clock=clock, seeds=[hive.bootstrap])
                reader = DirectoryService(other_network, other_identity, clock=clock, seeds=[hive.bootstrap])
                await publisher.join()
                await reader.join()
                await publisher.publish(key, value, lifetime=RECORD_LIFETIME)
                found = any(record.value == value for record in await reader.lookup(key))
                await publisher.withdraw(key)
    except HivemindError as error:
        detail = short(error.message)
    except trio.TooSlowError:
        detail = f"it did not answer within {DEADLINE:g} seconds"
    tell(DirectoryFact(found, trio.current_time() - start, detail))


async def _try_account(settings: Settings, bootstrap: PeerId, network: Router, tell: Tell) -> None:
    """Logs in, if there is an account, and asks what is on it; else asks something that needs one."""
    client = AccountClient(network, bootstrap)
    username = settings.username or ""
    login, available, detail = Login.WELCOME, "", ""
    if username and not settings.password:
        tell(AccountFact(Login.NO_PASSWORD, username))
        return
    try:
        with trio.fail_after(DEADLINE):
            if settings.username is not None and settings.password is not None:
                await client.login(settings.username, settings.password)
            available = f"{format_credits((await client.balance()).available)} credits"
    except AccountRequiredError:
        login = Login.NONE
    except AuthenticationError as error:
        login, detail = Login.REFUSED, short(error.message)
    except HivemindError as error:
        login, detail = Login.SILENT, short(error.message)
    except trio.TooSlowError:
        login, detail = Login.SILENT, f"no answer within {DEADLINE:g} seconds"
    tell(AccountFact(login, username, available, settings.register, detail))
