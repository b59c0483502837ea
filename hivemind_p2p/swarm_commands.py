"""``hivemind-peer swarm``: what a peer keeps on this machine's disk: list, pin, check and remove it.

These commands work on a peer's data folder. `ls`, `pin` and `unpin` also while the peer runs: it reads the pins before
it drops anything. `verify` and `rm` change what a running peer relies upon, so they ask for it to be stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hivemind_p2p import config, telemetry
from hivemind_p2p.data_folder import is_in_use, owned_folder
from hivemind_p2p.errors import ContentError, HivemindError, LinkError
from hivemind_p2p.options import AsJson, Verbose
from hivemind_p2p.program import reported_errors

if TYPE_CHECKING:
    from hivemind_p2p.bt.catalogue import Catalogue, Entry

app = typer.Typer(help="Look after the contents that a peer keeps on this machine.", no_args_is_help=True)

SHORT = 12
"""Digits of an info hash that tell contents apart."""

Data = Annotated[Path | None, typer.Option(help="The folder of the peer's state.")]
Chosen = Annotated[
    list[str], typer.Argument(help="Links, names, or the beginnings of info hashes.", metavar="CONTENT...")
]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a peer keeps its contents."""

    data: Path
    folder: Path
    catalogue: Catalogue

    def entries(self) -> list[Entry]:
        return sorted(self.catalogue.entries(), key=lambda entry: (entry.store.manifest.name, _id(entry)))


def _place(data: Path | None) -> _Place:
    from hivemind_p2p.bt.catalogue import Catalogue

    telemetry.configure("warning")
    chosen = data or config.load().data or config.data_folder()
    folder = chosen / "content"
    return _Place(chosen, folder, Catalogue(folder))


@app.command("ls")
def list_contents(data: Data = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List the contents: how much of each is here, and where."""
    with reported_errors(verbose=verbose):
        place = _place(data)
        entries = place.entries()
        if as_json:
            for entry in entries:
                _print_json(_plain(entry))
            return
        from rich.console import Console

        console = Console()
        if not entries:
            console.print(f"there is no content in {place.data}", markup=False, highlight=False, soft_wrap=True)
            return
        console.print(_table(entries))
        running = "; a peer runs on it" if is_in_use(place.data) else ""
        console.print(f"in {place.data}{running}", style="dim", markup=False, highlight=False, soft_wrap=True)


@app.command()
def pin(contents: Chosen, data: Data = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Keep contents even where others need room (see `run --storage`). A peer that runs heeds it too."""
    _pin(contents, data, pinned=True, as_json=as_json, verbose=verbose)


@app.command()
def unpin(contents: Chosen, data: Data = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Let contents be dropped again where others need room."""
    _pin(contents, data, pinned=False, as_json=as_json, verbose=verbose)


def _pin(contents: Sequence[str], data: Path | None, *, pinned: bool, as_json: bool, verbose: bool) -> None:
    with reported_errors(verbose=verbose):
        place = _place(data)
        for entry in _find(place.entries(), contents):
            place.catalogue.pin(entry.store.manifest.infohash, pinned=pinned)
            if as_json:
                _print_json(_plain(entry) | {"pinned": pinned})
            else:
                typer.echo(f"{'pinned' if pinned else 'unpinned'} {entry.store.manifest.name}")


@app.command()
def verify(
    contents: Annotated[list[str] | None, typer.Argument(help="As for pin; all by default.")] = None,
    data: Data = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Read contents and check every byte. What is wrong is forgotten, so that a fetch brings it anew.

    Exits with 1 if anything was wrong.
    """
    with reported_errors(verbose=verbose):
        place = _place(data)
        with owned_folder(place.data, "peer"):
            entries = place.entries()
            found = _find(entries, contents) if contents else entries
            wrong = [_verify(entry, as_json=as_json) for entry in found]
        if not found and not as_json:
            typer.echo(f"there is no content in {place.data}")
        raise typer.Exit(1 if any(wrong) else 0)


def _verify(entry: Entry, *, as_json: bool) -> bool:
    """Checks one content and says how it is; whether something was wrong."""
    from rich.console import Console

    from hivemind_p2p.notebook.words import amount, counted

    store, name = entry.store, entry.store.manifest.name
    had = store.held_bytes
    errors = Console(stderr=True)
    try:
        with errors.status(f"checking {amount(had)}") if errors.is_terminal else _Nothing():
            wrong = len(store.verify())
    except HivemindError as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error
    if as_json:
        _print_json(_plain(entry) | {"wrong_pieces": wrong})
    elif not wrong:
        typer.echo(f"{name}: {amount(had)} checked, all right")
    else:
        todo = "share it again" if store.shared else "forgotten, and brought anew by the next fetch of it"
        of = counted(wrong + len(store.held), "piece")
        typer.echo(f"{name}: {wrong} of {of} wrong or gone, {amount(had - store.held_bytes)}; {todo}")
    return bool(wrong)


@app.command("rm")
def remove(contents: Chosen, data: Data = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Remove contents from the peer's own folder. Files in folders of yours stay; they are only shared no more."""
    with reported_errors(verbose=verbose):
        from hivemind_p2p.bt.keeping import remove_content
        from hivemind_p2p.notebook.words import amount

        place = _place(data)
        with owned_folder(place.data, "peer"):
            for entry in _find(place.entries(), contents):
                own = entry.store.location.is_relative_to(place.folder.absolute())
                remove_content(place.folder, place.catalogue, entry.store.manifest.infohash)
                if as_json:
                    _print_json(_plain(entry) | {"removed_files": own})
                elif own:
                    typer.echo(f"removed {entry.store.manifest.name}, {amount(entry.store.held_bytes)} freed")
                else:
                    typer.echo(f"forgot {entry.store.manifest.name}; its files stay at {entry.store.path}")


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _find(entries: Sequence[Entry], chosen: Iterable[str]) -> list[Entry]:
    """What was named, each exactly once.

    Raises:
        ContentError: A name fits nothing, or several contents.
    """
    found: dict[str, Entry] = {}
    for text in chosen:
        fits = [entry for entry in entries if _fits(entry, text)]
        if not fits:
            raise ContentError(f"no content here is {text!r}", hint="`hivemind-peer swarm ls` lists them.")
        if len(fits) > 1:
            raise ContentError(
                f"{len(fits)} contents here are {text!r}: {', '.join(_id(entry)[:SHORT] for entry in fits)}",
                hint="Name one by the beginning of its info hash.",
            )
        found[_id(fits[0])] = fits[0]
    return list(found.values())


def _fits(entry: Entry, text: str) -> bool:
    from hivemind_p2p.bt.link import infohash_of, is_magnet

    if is_magnet(text):
        try:
            return infohash_of(text) == entry.store.manifest.infohash
        except LinkError:
            return False
    return text == entry.store.manifest.name or (len(text) >= 4 and _id(entry).startswith(text.lower()))


def _id(entry: Entry) -> str:
    return entry.store.manifest.infohash.hex()


def _table(entries: Iterable[Entry]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from hivemind_p2p.notebook.words import amount, duration, part

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("content", overflow="ellipsis", no_wrap=True, max_width=26)
    table.add_column("id", no_wrap=True)
    table.add_column("here", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("used", no_wrap=True)
    for entry in entries:
        manifest = entry.store.manifest
        complete = entry.store.held.complete
        here = amount(manifest.length) if complete else part(entry.store.held_bytes, manifest.length)
        state = "shared" if entry.store.shared else "complete" if complete else "in part"
        table.add_row(
            Text(manifest.name),
            _id(entry)[:SHORT],
            here,
            state + (", pinned" if entry.pinned else ""),
            f"{duration(max(0.0, time.time() - entry.used_at))} ago",
        )
    return table


def _plain(entry: Entry) -> dict[str, Any]:
    store = entry.store
    return {
        "name": store.manifest.name,
        "link": store.manifest.link,
        "path": str(store.path),
        "length": store.manifest.length,
        "held_bytes": store.held_bytes,
        "pieces": store.manifest.pieces,
        "held_pieces": len(store.held),
        "shared": store.shared,
        "pinned": entry.pinned,
        "used_at": entry.used_at,
    }


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
