"""``hivemind-peer``: run a peer, or use a hive from the command line.

Results go to stdout (one line of JSON with ``--json``), errors to stderr: one line what happened, one line what to
do, and a non-zero exit code; ``-v`` shows the traceback and the log.
"""

from __future__ import annotations

import importlib
import json
import runpy
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.models import TyperInfo

from hivemind_p2p import __version__, model_commands, swarm_commands
from hivemind_p2p.doctor import command as doctor_command
from hivemind_p2p.errors import ConfigurationError, TaskTimeoutError
from hivemind_p2p.options import (
    AsJson,
    Bootstrap,
    DownloadLimit,
    HiveKeyFile,
    Identity,
    UploadLimit,
    Username,
    Verbose,
)
from hivemind_p2p.program import connected, print_json, reported_errors, say_ready, wait_for_the_end
from hivemind_p2p.running import command as running_command
from hivemind_p2p.tasks.quorum import Quorum

if TYPE_CHECKING:
    from hivemind_p2p.job import Job

app = typer.Typer(
    help="Lend this machine to a hive, or use a hive from the command line.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

doctor = app.command()(doctor_command.doctor)
run = app.command()(running_command.run)
pause = app.command()(running_command.pause)
resume = app.command()(running_command.resume)
generate = app.command()(model_commands.generate)
embed = app.command()(model_commands.embed)
app.registered_groups = [TyperInfo(swarm_commands.app, name="swarm")]


def main() -> None:
    """The command."""
    app()


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Lend this machine to a hive, or use a hive from the command line."""
    if version:
        typer.echo(f"hivemind_p2p {__version__}")
        raise typer.Exit


@app.command()
def demo(
    peers: Annotated[int, typer.Option(help="How many peers to start.", min=1, max=8)] = 3,
    model: Annotated[Path | None, typer.Option(help="A checkpoint folder of your own.")] = None,
    prompt: Annotated[str, typer.Option(help="What the model goes on with.")] = "def main(",
    save_svg: Annotated[Path | None, typer.Option(help="Save a picture of the output.", hidden=True)] = None,
    verbose: Verbose = False,
) -> None:
    """Start a hive on this machine and show all that it does, in about half a minute."""
    with reported_errors(verbose=verbose):
        from hivemind_p2p.demo import run_demo

        run_demo(peers=peers, model=model, prompt=prompt, save_svg=save_svg)


@app.command()
def status(
    bootstrap: Bootstrap = None,
    username: Username = None,
    identity: Identity = None,
    hive_key: HiveKeyFile = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show who is in the hive, what they lend, and the account's balance."""
    with connected(bootstrap, username, identity, hive_key, as_json=as_json, verbose=verbose) as hive:
        peers = [row for row in hive.peers() if not row.is_me]
        balance = hive.balance() if hive.has_account else None
        if as_json:
            print_json({"peers": [_plain(row) for row in peers], "balance": _plain(balance)})
            return
        from rich.console import Console

        from hivemind_p2p.tables import peers_table

        Console().print(peers_table(peers))
        if balance is not None:
            typer.echo(str(balance))


@app.command()
def submit(
    function: Annotated[str, typer.Argument(help="module:function, or file.py:function.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="JSON values; what is no JSON is text.")] = None,
    bootstrap: Bootstrap = None,
    username: Username = None,
    identity: Identity = None,
    hive_key: HiveKeyFile = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for the result.")] = None,
    follow: Annotated[bool, typer.Option(help="Show on stderr where it is, and what it prints, as it comes.")] = False,
    agree: Annotated[int, typer.Option(help="Peers of different accounts that must agree; 1 takes any.", min=1)] = 1,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a function on some peer and print what it returns, for example: hivemind-peer submit math:factorial 20."""
    with reported_errors(verbose=verbose):
        called = _find_function(function)
        values = [_json_or_text(argument) for argument in arguments or []]
    with connected(bootstrap, username, identity, hive_key, as_json=as_json, verbose=verbose) as hive:
        tasks = hive.with_options(verify=Quorum(agree, of=2 * agree - 1)) if agree > 1 else hive
        job = tasks.submit(called, *values)
        try:
            if follow:
                _follow(job)
            result = job.result(timeout)
        except TimeoutError as error:
            if job.done() or timeout is None:
                raise  # the function's own
            raise TaskTimeoutError(f"no result within {timeout:g} s", hint="Wait longer with --timeout.") from error
        if as_json:
            print_json({"result": result, "peer": job.peer, "cost": job.cost})
        else:
            typer.echo(repr(result))


@app.command()
def share(
    path: Annotated[Path, typer.Argument(help="A file or a folder.")],
    bootstrap: Bootstrap = None,
    username: Username = None,
    identity: Identity = None,
    hive_key: HiveKeyFile = None,
    torrent: Annotated[Path | None, typer.Option(help="Write a .torrent file for BitTorrent clients.")] = None,
    upload_limit: UploadLimit = None,
    as_model: Annotated[bool, typer.Option("--model", help="Announce it as a model for peers to host.")] = False,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", hidden=True)] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Share a file or folder until Ctrl-C, and print its link."""
    from hivemind_p2p.notebook.transfers import hashing, wait_and_watch

    limits = {"upload_limit": upload_limit}
    with connected(bootstrap, username, identity, hive_key, limits, as_json=as_json, verbose=verbose) as hive:
        with hashing(path, shown=not as_json):
            link = hive.publish_model(path) if as_model else hive.share(path, torrent=torrent)
            if as_model and torrent is not None:
                hive.share(path, torrent=torrent)
        say_ready(as_json=as_json, peer_id=hive.peer_id, addresses=hive.addresses, link=link)
        ends = partial(wait_for_the_end, exit_with_parent=exit_with_parent)
        wait_and_watch(hive, link, ends, shown=not as_json)


@app.command()
def fetch(
    link: Annotated[str, typer.Argument(help="What share printed, a magnet link, or a .torrent file.")],
    to: Annotated[Path, typer.Option(help="The folder to put it in.")] = Path(),
    upload_limit: UploadLimit = None,
    download_limit: DownloadLimit = None,
    bootstrap: Bootstrap = None,
    username: Username = None,
    identity: Identity = None,
    hive_key: HiveKeyFile = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Fetch what somebody shares. What was begun before goes on where it was."""
    limits = {"upload_limit": upload_limit, "download_limit": download_limit}
    with (
        _kept_until_done(link, to, verbose=verbose) as data,
        connected(
            bootstrap, username, identity, hive_key, limits | {"data": data}, as_json=as_json, verbose=verbose
        ) as hive,
    ):
        path = hive.fetch(link, to, progress=not as_json)
        print_json({"path": str(path)}) if as_json else typer.echo(str(path))


@contextmanager
def _kept_until_done(link: str, to: Path, *, verbose: bool) -> Iterator[Path]:
    """A hidden folder beside what is fetched: it knows which pieces have arrived, and goes once all have."""
    from hivemind_p2p.bt.link import infohash_of, is_magnet
    from hivemind_p2p.bt.torrent_file import read_torrent

    with reported_errors(verbose=verbose):
        is_file = not is_magnet(link) and Path(link).expanduser().is_file()
        name = (read_torrent(Path(link).expanduser()).manifest.infohash if is_file else infohash_of(link)).hex()
    folder = to / f".fetching-{name}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@app.command()
def new_hive_key(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist yet.")],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make the key of a private hive: only peers that are started with this file can join it."""
    with reported_errors(verbose=verbose):
        from hivemind_p2p.hive_key import HiveKey

        key = HiveKey.generate()
        key.write_new(file)
        if as_json:
            print_json({"path": str(file), "fingerprint": key.fingerprint})
            return
        typer.echo(f"wrote {file}, fingerprint {key.fingerprint}")
        typer.echo(f"  the bootstrap: hivemind-bootstrap run --hive-key {file} ...")
        typer.echo(f"  every member:  hivemind-peer run --hive-key {file} ...")
        typer.echo("  Give it to members in a way that nobody else can read.")


def _follow(job: Job[Any]) -> None:
    """Shows a job's states and its output until it is done."""
    lock = threading.Lock()
    shown = 0

    def tell(*_: object) -> None:
        nonlocal shown
        with lock:  # it is called here, and from the hive's thread
            for change in job.history[shown:]:
                where = f" on {change.peer}" if change.peer else ""
                typer.echo(f"{change.state.lower()}{where}", err=True)
                shown += 1

    job.on_change(tell)
    tell()
    for line in job.stdout:
        typer.echo(line, nl=False, err=True)


def _find_function(name: str) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    if not place:
        raise ConfigurationError(f"not a function: {name!r}", hint="Write module:function or file.py:function.")
    try:
        if place.endswith(".py"):
            found = runpy.run_path(place)[attribute]
        else:
            found = getattr(importlib.import_module(place), attribute)
    except Exception as error:  # the file is the user's, and may raise anything when it is read
        raise ConfigurationError(f"cannot find the function {name!r}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ConfigurationError(f"{name!r} is no function but a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _json_or_text(argument: str) -> Any:
    try:
        return json.loads(argument)
    except ValueError:
        return argument


def _plain(value: Any) -> Any:
    from dataclasses import asdict

    return None if value is None else asdict(value)
