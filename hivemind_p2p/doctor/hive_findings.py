"""What the facts about the hive mean: bootstrap, key, clock, directory, account."""

from __future__ import annotations

from typing import Final

from hivemind_p2p.doctor.findings import Condition, Mark, Rule, always
from hivemind_p2p.doctor.hive_facts import (
    Login,
    Step,
)

CLOCK_TOLERANCE: Final = 2.0
"""Seconds: less than that nobody notices."""

CLOCK_LIMIT: Final = 300.0
"""Seconds: the directory goes by the hive's clock anyway, but what is promised to be paid expires by this one, with ten
minutes of grace."""

SLOW: Final = 0.5
"""Seconds of a round trip, from which on everything feels slow."""

_ADDRESS: Final = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."
_GET_THE_KEY: Final = "Ask the hive's operator for the key file, and pass it with --hive-key FILE."


def _step(step: Step) -> Condition:
    return lambda fact: fact.step is step


def _login(login: Login) -> Condition:
    return lambda fact: fact.login is login


BOOTSTRAP: Final = (
    Rule(
        _step(Step.UNNAMED),
        Mark.FAILURE,
        "No hive is named, so there is nothing to connect to.",
        f"Pass --bootstrap with the address that the hive's operator gave you; it looks like {_ADDRESS}",
    ),
    Rule(
        _step(Step.MALFORMED),
        Mark.FAILURE,
        "The bootstrap's address cannot be understood: {fact.detail}.",
        f"Copy the whole address again; it looks like {_ADDRESS}",
    ),
    Rule(
        _step(Step.BAD_KEY_FILE),
        Mark.FAILURE,
        "The hive key cannot be used: {fact.detail}.",
        _GET_THE_KEY,
    ),
    Rule(
        _step(Step.UNRESOLVED),
        Mark.FAILURE,
        "The name {fact.host} has no address: it is misspelt, or this machine is offline.",
        "Open any web page here: if that works, compare the name letter by letter with what you were given.",
    ),
    Rule(
        lambda fact: fact.step is Step.REFUSED and fact.local,
        Mark.FAILURE,
        "Nothing answers at {fact.place}, which is this machine: no bootstrap runs here.",
        "Start one with `hivemind-bootstrap run`; if the hive is on another machine, ask for that one's address.",
    ),
    Rule(
        _step(Step.REFUSED),
        Mark.FAILURE,
        "A machine answers at {fact.place}, but no bootstrap (the hive's meeting point) runs there.",
        "Ask the hive's operator to start the bootstrap, or for its present address if it has moved.",
    ),
    Rule(
        _step(Step.UNREACHABLE),
        Mark.FAILURE,
        "There is no way from here to {fact.place}: this machine is offline, or in another network.",
        "Connect this machine to the network (or the VPN) that the hive is in.",
    ),
    Rule(
        _step(Step.SILENT),
        Mark.FAILURE,
        "{fact.place} does not answer at all: it is switched off, or a firewall is in the way.",
        "Ask the hive's operator whether the machine is on and lets that port through its firewall.",
    ),
    Rule(
        _step(Step.NO_PEER),
        Mark.FAILURE,
        "Something answers at {fact.place}, but it is not a hive's bootstrap.",
        "Check the port number: the bootstrap prints its own when it starts; the status page has another one.",
    ),
    Rule(
        _step(Step.STALLED),
        Mark.FAILURE,
        "{fact.place} takes the call and then says nothing: the bootstrap hangs or is overloaded.",
        "Ask the hive's operator to restart the bootstrap.",
    ),
    Rule(
        _step(Step.PRIVATE),
        Mark.FAILURE,
        "This hive is private: it only lets in those who have its key.",
        _GET_THE_KEY,
    ),
    Rule(
        _step(Step.WRONG_KEY),
        Mark.FAILURE,
        "This hive is private, and the key used here is not (or no longer) its key.",
        "Ask the hive's operator for the present key file, and pass it with --hive-key FILE.",
    ),
    Rule(
        _step(Step.NOT_PRIVATE),
        Mark.FAILURE,
        "A hive key is used here, but this hive is open to everybody, so the two cannot talk.",
        "Leave out --hive-key (and HIVEMIND_P2P_HIVE_KEY); if the hive should be private, tell its operator.",
    ),
    Rule(
        _step(Step.OTHER_PEER),
        Mark.FAILURE,
        "Another bootstrap answers at {fact.place}: …{fact.found} instead of …{fact.expected}.",
        "Ask the hive's operator for the present address. If it has not changed, do not connect: it may be a trap.",
    ),
    Rule(
        _step(Step.MUTE),
        Mark.FAILURE,
        "The bootstrap at {fact.place} lets this machine in and then does not answer: {fact.detail}.",
        "Compare the versions: `hivemind-peer --version` here, `hivemind-bootstrap --version` there.",
    ),
    Rule(
        lambda fact: fact.seconds > SLOW,
        Mark.WARNING,
        "The bootstrap answers at {fact.place}, but slowly: {fact.milliseconds} ms.",
        "Try again over another connection (a cable instead of a mobile network).",
    ),
    Rule(always, Mark.WELL, "The bootstrap answers at {fact.place} in {fact.milliseconds} ms, and is the right one."),
)

HIVE_KEY: Final = (
    Rule(
        lambda fact: fact.exposed,
        Mark.WARNING,
        "Others on this machine can read the hive key in {fact.path}.",
        "Run: chmod 600 {fact.path}",
    ),
    Rule(always, Mark.WELL, "The hive key is readable by you only (fingerprint {fact.fingerprint})."),
)

CLOCK: Final = (
    Rule(
        lambda fact: abs(fact.ahead) - fact.uncertainty > CLOCK_LIMIT,
        Mark.FAILURE,
        "This machine's clock is {fact.words} the hive's: its payments look out of date.",
        "Switch on automatic time (Linux: timedatectl set-ntp true). If this clock is right, tell the operator.",
    ),
    Rule(
        lambda fact: abs(fact.ahead) - fact.uncertainty > CLOCK_TOLERANCE,
        Mark.WARNING,
        "This machine's clock is {fact.words} the hive's.",
        "Switch on automatic time (Linux: timedatectl set-ntp true), before it gets worse.",
    ),
    Rule(always, Mark.WELL, "The clock agrees with the hive's, to within {fact.bound}."),
)

DIRECTORY: Final = (
    Rule(
        lambda fact: bool(fact.detail),
        Mark.FAILURE,
        "The hive's directory does not work: {fact.detail}.",
        "Restart the bootstrap if it is yours, or tell the operator; nobody can find new peers like this.",
    ),
    Rule(
        lambda fact: not fact.found,
        Mark.FAILURE,
        "What is published in the hive's directory is not found again.",
        "Wait a minute and run the doctor again; if it stays like this, tell the hive's operator.",
    ),
    Rule(always, Mark.WELL, "The directory works: a test entry was published and found in {fact.milliseconds} ms."),
)

ACCOUNT: Final = (
    Rule(
        _login(Login.NONE),
        Mark.WELL,
        "No account is named: only what is free can be used, and nothing is earned.",
    ),
    Rule(
        _login(Login.NO_PASSWORD),
        Mark.FAILURE,
        "There is no password for the account {fact.username}.",
        'Set the variable HIVEMIND_P2P_PASSWORD, or write password = "..." into config.toml.',
    ),
    Rule(
        lambda fact: fact.login is Login.REFUSED and fact.registers,
        Mark.WARNING,
        "The account {fact.username} cannot be logged in to: it does not exist yet, or the password is wrong.",
        "If it is a new name, just start the peer: it will make the account. If not, correct the password.",
    ),
    Rule(
        _login(Login.REFUSED),
        Mark.FAILURE,
        "The bootstrap does not accept the account: {fact.detail}.",
        "Correct the username or the password; to make a new account, start the peer with --register.",
    ),
    Rule(
        _login(Login.SILENT),
        Mark.FAILURE,
        "The hive's accounts do not answer: {fact.detail}.",
        "Try again in a minute; if it stays like this, tell the hive's operator.",
    ),
    Rule(always, Mark.WELL, "The account {fact.username} is open: {fact.available}."),
)
