"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Bootstrap = Annotated[str | None, typer.Option(help="The bootstrap's multiaddr, with its /p2p/ part.")]
Username = Annotated[str | None, typer.Option(help="The account that pays and earns.")]
Identity = Annotated[Path | None, typer.Option(help="A key file; made on first use.")]
HiveKeyFile = Annotated[Path | None, typer.Option("--hive-key", help="The key file of a private hive.")]
UploadLimit = Annotated[
    str | None, typer.Option(help="The most that is sent of contents, such as 10MB/s; no limit by default.")
]
DownloadLimit = Annotated[str | None, typer.Option(help="The most that is fetched of contents; no limit by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line; logs go to stderr.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show the log, and the traceback of an error.")]
