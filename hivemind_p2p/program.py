"""What every command does the same way: say when it is ready, end when told to, and report errors in two lines."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import HivemindError
from hivemind_p2p.interfaces import TaskStatus

if TYPE_CHECKING:
    from hivemind_p2p.hive import Hive


def start_quickly() -> None:
    """Puts off the search for garbage until `say_ready`: nearly all that a service loads stays for its life."""
    gc.disable()


def loaded() -> None:
    """Takes up the search for garbage again, without what was loaded before."""
    if not gc.isenabled():
        gc.freeze()  # so that no later search goes through it again, in the middle of somebody's call
        gc.enable()


def say_ready(*, as_json: bool, peer_id: str, addresses: Sequence[str], http: str | None = None, **more: Any) -> None:
    """Tells whoever started this command that it serves now: one line of JSON, or a few for people."""
    loaded()
    if as_json:
        event = {"event": "ready", "peer_id": peer_id, "addresses": list(addresses), "http": http}
        print(json.dumps(event | {"pid": os.getpid()} | more), flush=True)  # noqa: T201
        return
    print(f"ready as {peer_id}", flush=True)  # noqa: T201
    for address in addresses:
        print(f"  {address}", flush=True)  # noqa: T201
    for name, value in {"status page": http, **more}.items():
        if value is not None:
            print(f"  {name}: {value}", flush=True)  # noqa: T201


async def wait_for_the_end(*, exit_with_parent: bool = False) -> None:
    """Returns on SIGTERM or SIGINT, or where `exit_with_parent`, when stdin closes.

    The program that started this one holds the other end of stdin, so it closes however that program ended, SIGKILL
    included.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_signalled, nursery.cancel_scope)
        if exit_with_parent:
            nursery.start_soon(_parent_ended, nursery.cancel_scope.cancel)
    end_quickly()


def end_quickly() -> None:
    """Spares the interpreter its last act, a search for garbage among all that was ever imported.

    It takes longer than the goodbye. What is frozen is not searched.
    """
    gc.freeze()


class Ending:
    """How a command is told to end, which it may be twice: first in order, then at once.

    Attributes:
        wanted: Set at the first signal, or by `ask`.
        at_once: Set at the second one, and where the program that started this one is gone.
    """

    def __init__(self) -> None:
        self.wanted, self.at_once = trio.Event(), trio.Event()

    def ask(self) -> None:
        """As a signal does."""
        (self.at_once if self.wanted.is_set() else self.wanted).set()

    def hurry(self) -> None:
        """Ends it at once."""
        self.wanted.set()
        self.at_once.set()

    async def watch(self, *, exit_with_parent: bool, task_status: TaskStatus) -> None:
        """Listens to signals, and where `exit_with_parent`, to stdin; until it is cancelled."""
        async with trio.open_nursery() as nursery:
            if exit_with_parent:
                nursery.start_soon(_parent_ended, self.hurry)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                task_status.started()
                async for _ in signals:
                    self.ask()


async def _signalled(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def _parent_ended(end: Callable[[], None]) -> None:
    # Left waiting in its thread when a signal comes first; a daemon thread of trio's, so it keeps nothing alive.
    await trio.to_thread.run_sync(_read_to_the_end, abandon_on_cancel=True)
    end()


def _read_to_the_end() -> None:
    while os.read(0, 4096):
        pass


@contextmanager
def reported_errors(*, verbose: bool) -> Iterator[None]:
    """Turns an error into two lines on stderr and exit code 1: what happened, what to do. Ctrl-C exits with 130."""
    try:
        yield
    except (HivemindError, BaseExceptionGroup) as error:
        found = find_error(error)
        if found is None and _is_ctrl_c(error):
            raise SystemExit(128 + signal.SIGINT) from None
        if found is None or verbose:
            raise
        # A message may quote what a function somewhere raised, in as many lines as it liked.
        print(f"error: {_in_one_line(found.message)}\nhint: {_in_one_line(found.hint)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _is_ctrl_c(error: BaseException) -> bool:
    # trio wraps it in a group for each nursery that it passes.
    return isinstance(error, BaseExceptionGroup) and error.split(KeyboardInterrupt)[1] is None


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def find_error(error: BaseException) -> HivemindError | None:
    """The first of our own errors inside nested exception groups."""
    if isinstance(error, HivemindError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := find_error(part))), None)
    return None


def configure_logs(*, verbose: bool, as_json: bool) -> None:
    """Logs to stderr: warnings, or everything with -v; as JSON lines where the output is."""
    telemetry.configure("debug" if verbose else "warning", as_json=as_json)


@contextmanager
def connected(
    bootstrap: str | None,
    username: str | None,
    identity: Path | None,
    hive_key: Path | None,
    settings: Mapping[str, Any] | None = None,
    *,
    as_json: bool,
    verbose: bool,
) -> Iterator[Hive]:
    """A hive for the time of a command, its errors reported in two lines; `settings` are the command's own."""
    with reported_errors(verbose=verbose):
        from hivemind_p2p.hive import connect

        configure_logs(verbose=verbose, as_json=as_json)
        joined = connect(
            bootstrap=bootstrap, username=username, identity=identity, hive_key=hive_key, **(settings or {})
        )
        with joined as hive:
            yield hive


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
