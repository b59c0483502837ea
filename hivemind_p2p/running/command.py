"""``hivemind-peer run``, ``pause`` and ``resume``."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hivemind_p2p import config, telemetry
from hivemind_p2p.options import (
    AsJson,
    Bootstrap,
    DownloadLimit,
    HiveKeyFile,
    UploadLimit,
    Username,
    Verbose,
)
from hivemind_p2p.program import Ending, configure_logs, end_quickly, loaded, reported_errors, say_ready, start_quickly

if TYPE_CHECKING:
    from hivemind_p2p.peer import Peer

Data = Annotated[Path | None, typer.Option(help="The folder of this node's state.")]


def run(
    bootstrap: Bootstrap = None,
    username: Username = None,
    register: Annotated[
        bool | None, typer.Option("--register", help="Make the account if there is none of this name.")
    ] = None,
    hive_key: HiveKeyFile = None,
    data: Data = None,
    listen: Annotated[list[str] | None, typer.Option(help="A multiaddr to listen on; may be repeated.")] = None,
    name: Annotated[str | None, typer.Option(help="What others see beside the peer id.")] = None,
    cpus: Annotated[float | None, typer.Option(help="Cores to lend; all by default.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory to lend, such as 8GiB; half by default.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs to lend to tasks, each to one at a time; -1 for all.")] = None,
    task_network: Annotated[
        bool | None,
        typer.Option("--task-network", help="Let tasks that ask for it use this machine's network, loopback included."),
    ] = None,
    location: Annotated[str | None, typer.Option(help="Where this is, for tasks that ask for a place.")] = None,
    software: Annotated[
        list[str] | None, typer.Option(help="What is here, for tasks that ask for it; may be repeated.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Room for fetched contents, such as 50GiB; no limit by default.")
    ] = None,
    upload_limit: UploadLimit = None,
    download_limit: DownloadLimit = None,
    serve_models: Annotated[
        str | None, typer.Option(help="any: host stages of published models; links: of these; or none.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Take tasks at these hours only, such as 'mon-fri 20:00-07:00, sat-sun'.")
    ] = None,
    only_when_idle: Annotated[
        bool | None, typer.Option("--only-when-idle", help="Take tasks only while other programs leave the machine be.")
    ] = None,
    drain_seconds: Annotated[
        float | None, typer.Option(help="When told to end: for how long to finish what runs; 60 by default.")
    ] = None,
    sandbox: Annotated[str | None, typer.Option(help="auto, bubblewrap, landlock or none.")] = None,
    unsafe: Annotated[
        bool | None, typer.Option("--unsafe", help="Run tasks without walls where the system has none.")
    ] = None,
    relay: Annotated[
        bool | None, typer.Option("--relay/--no-relay", help="Relay for peers that cannot be called directly.")
    ] = None,
    upnp: Annotated[
        bool | None, typer.Option("--upnp/--no-upnp", help="Ask the router for a port where one is needed.")
    ] = None,
    tui: Annotated[
        bool, typer.Option("--tui/--no-tui", help="Show a live screen; never where the output is no terminal.")
    ] = True,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", hidden=True)] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Lend this machine to a hive, until Ctrl-C. The password comes from HIVEMIND_P2P_PASSWORD or config.toml."""
    with reported_errors(verbose=verbose):
        configure_logs(verbose=verbose, as_json=as_json)
        settings = config.load(
            bootstrap=bootstrap,
            username=username,
            register=register,
            hive_key=hive_key,
            data=data,
            listen=listen or None,
            name=name,
            cpus=cpus,
            memory=memory,
            gpus=gpus,
            task_network=task_network,
            location=location,
            software=software or None,
            storage=storage,
            upload_limit=upload_limit,
            download_limit=download_limit,
            serve_models=serve_models,
            schedule=schedule,
            only_when_idle=only_when_idle,
            drain_seconds=drain_seconds,
            sandbox=sandbox,
            unsafe=unsafe,
            relay=relay,
            upnp=upnp,
            lend=True,
        )
        _run_peer(settings, as_json=as_json, exit_with_parent=exit_with_parent, tui=tui and not verbose)


def _run_peer(settings: config.Settings, *, as_json: bool, exit_with_parent: bool, tui: bool) -> None:
    start_quickly()
    import trio

    from hivemind_p2p.peer import open_peer

    chosen = settings if settings.data is not None else replace(settings, data=config.data_folder())

    async def serve() -> None:
        ending, joined = Ending(), False

        async def give_up(scope: trio.CancelScope) -> None:
            await ending.wanted.wait()
            if not joined:
                scope.cancel()
            # Not cancelled once it has joined: then its services are needed to say goodbye.

        async with trio.open_nursery() as nursery:
            await nursery.start(_watch, ending, exit_with_parent)
            nursery.start_soon(give_up, nursery.cancel_scope)
            async with open_peer(chosen) as peer, AsyncExitStack() as stack:
                joined = True
                await _tell(peer, stack, ending, as_json=as_json, tui=tui)
                await ending.wanted.wait()
                await _finish(peer, ending)
            nursery.cancel_scope.cancel()
        end_quickly()

    trio.run(serve)


async def _watch(ending: Ending, exit_with_parent: bool, *, task_status: Any) -> None:
    await ending.watch(exit_with_parent=exit_with_parent, task_status=task_status)


async def _tell(peer: Peer, stack: AsyncExitStack, ending: Ending, *, as_json: bool, tui: bool) -> None:
    """Says that the peer is ready: on a screen where somebody looks, else in a line."""
    if tui and not as_json:
        from hivemind_p2p.running import live

        if live.has_screen():
            loaded()
            await stack.enter_async_context(live.shown(peer, ending.ask))
            return
    say_ready(as_json=as_json, peer_id=peer.peer_id, addresses=peer.addresses)


async def _finish(peer: Peer, ending: Ending) -> None:
    """Takes no more tasks, and waits for those that run; not for ever, and not where it is told to hurry."""
    import trio

    if peer.lending is None or not peer.settings.drain_seconds or ending.at_once.is_set():
        return

    async def hurry(scope: trio.CancelScope) -> None:
        await ending.at_once.wait()
        scope.cancel()

    with trio.move_on_after(peer.settings.drain_seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry, nursery.cancel_scope)
            await peer.lending.drain()
            nursery.cancel_scope.cancel()


def pause(data: Data = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Let the peer that runs on this machine take no more tasks; what runs goes on. Undone by `resume`."""
    _say("pause", data, as_json=as_json, verbose=verbose)


def resume(data: Data = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Let the peer that runs on this machine take tasks again."""
    _say("resume", data, as_json=as_json, verbose=verbose)


def _say(word: str, data: Path | None, *, as_json: bool, verbose: bool) -> None:
    with reported_errors(verbose=verbose):
        from hivemind_p2p.worker import control

        telemetry.configure("warning")
        now = control.ask(data or config.load().data or config.data_folder(), word)
        if as_json:
            sys.stdout.write(json.dumps(now) + "\n")
            return
        reason = f": {now['reason']}" if now["reason"] else ""
        typer.echo(f"{now['state']}{reason}; {now['running']} tasks run, {now['waiting']} wait")
