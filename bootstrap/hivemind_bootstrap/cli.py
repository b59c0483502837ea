"""``hivemind-bootstrap``: run the peer that a hive trusts.

With ``--json`` one line on stdout says when it serves; logs go to stderr; an error is one line what happened and one
line what to do, with exit code 1. SIGTERM and SIGINT end it cleanly; SIGKILL loses nothing that was answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hivemind_bootstrap.config import HTTP_ADDRESS, BootstrapConfig
from hivemind_p2p import __version__, defaults
from hivemind_p2p.config import hive_key_of_the_environment
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.net.relay_book import RelayLimits
from hivemind_p2p.program import configure_logs, reported_errors, say_ready, start_quickly, wait_for_the_end
from hivemind_p2p.types import CREDIT, parse_bytes

RELAY = RelayLimits()

MOST_WELCOME = 1_000_000
"""Credits: with more than this for everybody nobody has a reason to earn any."""

app = typer.Typer(
    help="Run the bootstrap of a hive: directory seed, accounts, ledger, status page.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """The command."""
    app()


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Run the bootstrap of a hive: directory seed, accounts, ledger, status page."""
    if version:
        typer.echo(f"hivemind_bootstrap {__version__}")
        raise typer.Exit


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="The folder of all its state: the key and the ledger.")],
    listen: Annotated[list[str] | None, typer.Option(help="A multiaddr for peers; may be repeated.")] = None,
    http: Annotated[str, typer.Option(help="Host and port of the status page.")] = HTTP_ADDRESS,
    closed: Annotated[bool, typer.Option("--closed", help="Take no new accounts.")] = False,
    open_ledger: Annotated[bool, typer.Option("--open-ledger", help="Let accounts see each other's totals.")] = False,
    welcome_credits: Annotated[float, typer.Option(help="Credits that a new account is given.")] = (
        defaults.WELCOME_CREDITS / CREDIT
    ),
    hive_key: Annotated[
        Path | None, typer.Option(help="A key file: only peers that have it can join. See hivemind-peer new-hive-key.")
    ] = None,
    tracker: Annotated[
        str, typer.Option(help="The BitTorrent tracker: off, hive (contents that peers share here) or open (to all).")
    ] = "hive",
    tracker_http: Annotated[str, typer.Option(help="Host and port of the tracker, if not those of --http.")] = "",
    tracker_url: Annotated[str, typer.Option(help="The URL under which others reach the tracker.")] = "",
    relay: Annotated[
        bool, typer.Option("--relay/--no-relay", help="Relay for peers that cannot be called directly.")
    ] = True,
    relay_places: Annotated[int, typer.Option(help="How many peers can be called through it.")] = (RELAY.reservations),
    relay_calls: Annotated[int, typer.Option(help="Relayed calls at once.")] = RELAY.circuits,
    relay_bytes: Annotated[str, typer.Option(help="Bytes of one relayed call each way, such as 16GiB; 0: any.")] = (
        str(RELAY.circuit_bytes)
    ),
    relay_seconds: Annotated[int, typer.Option(help="Seconds of one relayed call; 0: any.")] = RELAY.circuit_seconds,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say in one line of JSON when it serves.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the log, and an error's traceback.")] = False,
) -> None:
    """Run a bootstrap until Ctrl-C. Everything binds to loopback unless told otherwise."""
    with reported_errors(verbose=verbose):
        configure_logs(verbose=verbose, as_json=as_json)
        config = BootstrapConfig(
            data=data,
            listen=tuple(listen) if listen else (defaults.LISTEN_ADDRESS,),
            http=http,
            open_registration=not closed,
            open_ledger=open_ledger,
            tracker=tracker,
            tracker_http=tracker_http,
            tracker_url=tracker_url,
            welcome_credits=_in_millionths(welcome_credits),
            relay=_limits(relay_places, relay_calls, relay_bytes, relay_seconds) if relay else None,
            hive_key=hive_key or hive_key_of_the_environment(),
        )
        _run(config, as_json=as_json, exit_with_parent=exit_with_parent)


def _limits(places: int, calls: int, size: str, seconds: int) -> RelayLimits:
    return RelayLimits(reservations=places, circuits=calls, circuit_bytes=parse_bytes(size), circuit_seconds=seconds)


def _in_millionths(amount: float) -> int:
    if not 0 <= amount <= MOST_WELCOME:
        raise ConfigurationError(f"--welcome-credits can be 0 to {MOST_WELCOME:,}, not {amount:g}")
    return round(amount * CREDIT)


def _run(config: BootstrapConfig, *, as_json: bool, exit_with_parent: bool) -> None:
    start_quickly()
    import trio

    from hivemind_bootstrap.app import serve_bootstrap

    async def live() -> None:
        async with trio.open_nursery() as nursery:
            ready = await nursery.start(serve_bootstrap, config)
            say_ready(as_json=as_json, peer_id=ready.peer_id, addresses=ready.addresses, http=ready.http)
            await trio.sleep_forever()

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            await wait_for_the_end(exit_with_parent=exit_with_parent)
            nursery.cancel_scope.cancel()

    trio.run(serve)
