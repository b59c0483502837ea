"""``hivemind-peer doctor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hivemind_p2p import config, telemetry
from hivemind_p2p.options import AsJson, Bootstrap, HiveKeyFile, Username, Verbose
from hivemind_p2p.program import reported_errors


def doctor(
    bootstrap: Bootstrap = None,
    username: Username = None,
    hive_key: HiveKeyFile = None,
    data: Annotated[Path | None, typer.Option(help="The folder of the peer's state.")] = None,
    listen: Annotated[list[str] | None, typer.Option(help="A multiaddr that the peer listens on.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory that the peer lends.")] = None,
    sandbox: Annotated[str | None, typer.Option(help="auto, bubblewrap or none.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what works on this machine and in the hive, and what to do about what does not. Takes some seconds.

    Pass what you pass to `hivemind-peer run`. Exits with 1 if something does not work.
    """
    with reported_errors(verbose=verbose):
        telemetry.configure("debug" if verbose else "error", as_json=as_json)
        settings = config.load(
            bootstrap=bootstrap,
            username=username,
            hive_key=hive_key,
            data=data,
            listen=listen or None,
            memory=memory,
            sandbox=sandbox,
        )
        import trio
        from rich.console import Console

        from hivemind_p2p.doctor import examination, report
        from hivemind_p2p.doctor.findings import exit_code

        console = Console(stderr=as_json)
        with report.Progress(console) as progress:
            findings = trio.run(examination.examine, settings, progress.show)
        if as_json:
            sys.stdout.write(json.dumps(report.as_json(findings)) + "\n")
        else:
            report.print_report(findings, console)
        raise typer.Exit(exit_code(findings))
