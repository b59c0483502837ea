"""The hive for scripts and notebooks.

`Hive` holds no logic of its own: each method crosses the portal (`portal.py`) to the `AsyncHive` (`async_hive.py`)
that lives on the background trio thread and owns the peer (`peer.py`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import trio

from hivemind_p2p import config, current, portal
from hivemind_p2p.async_hive import AsyncHive
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.job import Job
from hivemind_p2p.large_arguments import LargeArguments
from hivemind_p2p.model import Model
from hivemind_p2p.peer import open_peer
from hivemind_p2p.task_methods import TaskMethods
from hivemind_p2p.tasks.references import Reference
from hivemind_p2p.types import ByteRange, FileEntry, Link
from hivemind_p2p.views import Balance, ContentList, Ledger, PeerList, Statement, in_credits

if TYPE_CHECKING:
    import io

    from hivemind_p2p.sharding.model import LoadProgress, Placement
    from hivemind_p2p.tasks.options import Options
    from hivemind_p2p.tasks.spec import TaskSpec

T = TypeVar("T")

CLOSE_DEADLINE = 10.0
"""Seconds for saying goodbye: withdrawing offers and settling vouchers with peers that may be gone."""


class Hive(TaskMethods):
    """A connection to a hive, for scripts and notebooks. Made by `connect` or `local_hive`.

    Example:
        >>> with connect("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...") as hive:  # doctest: +SKIP
        ...     hive.submit(pow, 2, 10).result()
        1024
    """

    def __init__(self, settings: config.Settings) -> None:
        self._portal = portal.shared()
        self._large = LargeArguments(self.put)
        self._closed = False
        self._life = _Life(self._portal, settings)
        self._asynchronous = self._life.opened()
        self._forget = portal.close_at_exit(self.close)
        current.opened(self)
        if "joblib" in sys.modules:
            from hivemind_p2p.ecosystem.joblib_backend import register_joblib

            register_joblib()

    @property
    def peer_id(self) -> str:
        """Who this program is in the hive."""
        return self._asynchronous.peer.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this program's peer can be dialled, with its id."""
        return self._asynchronous.peer.addresses

    @property
    def has_account(self) -> bool:
        """Whether this hive was joined with a username."""
        return self._asynchronous.peer.accounts is not None

    @property
    def promised(self) -> Decimal:
        """What this program has promised to pay so far, in credits; the peers hand the promises in soon after."""
        purse = self._asynchronous.peer.purse
        return in_credits(purse.statistics().paid if purse is not None else 0)

    def launch(self, job: Job[Any], spec: TaskSpec, options: Options) -> None:
        """Starts a task for a job; may be called from any thread."""
        self._check_open()
        self._asynchronous.launch(job, spec, options)

    def job(self, job_id: str) -> Job[Any]:
        """A job by its id, also one of an earlier program. See `AsyncHive.job`."""
        self._check_open()
        return self._asynchronous.job(job_id)

    def jobs(self) -> list[str]:
        """The ids of all jobs that were started with ``keep=True`` and are kept still, the newest last."""
        return self._asynchronous.jobs()

    def forget_job(self, job_id: str) -> None:
        """Keeps a job no longer; cancel it first where it still runs."""
        self._asynchronous.forget_job(job_id)

    def page(self) -> str:
        """The address of a page that shows this hive's jobs in the browser; see `AsyncHive.page`.

        Example:
            >>> print(hive.page())  # doctest: +SKIP
            http://127.0.0.1:43211/kV0…/
        """
        return self._call(self._asynchronous.page)

    def cores(self) -> int:
        """Cores that the hive lends to functions now, this program's own peer left out; at least one."""
        if self.may_wait:
            self._call(self._asynchronous.peers)
        return self._asynchronous.cores()

    @property
    def may_wait(self) -> bool:
        """Whether this thread may wait for the hive; the one that runs the hive may not."""
        return not self._portal.is_here

    def put(self, value: T) -> Reference[T]:
        """Packs a value that many tasks use once. See `AsyncHive.put`.

        Example:
            >>> data = hive.put(numpy.zeros(100_000_000))  # doctest: +SKIP
            >>> hive.map(lambda seed: train(data, seed), range(8)).results()  # doctest: +SKIP
        """
        return self._call(self._asynchronous.put, value)

    def large_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Arguments with references instead of large ones, where this thread may wait for their being put."""
        return self._large.replaced(args, kwargs) if self.may_wait else (args, kwargs)

    def share(self, path: Path | str, *, torrent: Path | str | None = None) -> Link:
        """Shares a file or folder from where it lies, for as long as this hive is open.

        Args:
            path: What to share. What was hashed before and has not changed since is not hashed again.
            torrent: Where to write a ``.torrent`` file for BitTorrent clients outside of the hive. In an open hive it
                names the hive's tracker.
        """
        return self._call(lambda: self._asynchronous.share(path, torrent=torrent))

    def fetch(
        self,
        link: Link | Path | str,
        to: Path | str | None = None,
        *,
        wanted: Mapping[str, Sequence[ByteRange]] | None = None,
        first: Mapping[str, Sequence[ByteRange]] | None = None,
        progress: bool = False,
    ) -> Path:
        """Fetches a content.

        Args:
            link: What `share` gave, any magnet link of BitTorrent version 2, or the path of a ``.torrent`` file.
            to: The folder to put it in; by default one of this peer's own.
            wanted: Byte ranges by file path, where not everything is wanted; the rest is a hole.
            first: Those that are fetched before all others, in this order.
            progress: Shows a progress bar (HTML in a notebook).

        Returns:
            Where it lies.

        Raises:
            NoSourceError: Nobody has the pieces that are missing. What has arrived is kept.
        """
        from hivemind_p2p.notebook.progress import fetch_view

        self._check_open()
        with fetch_view(shown=progress) as show:
            return self._portal.call_watched(
                lambda report: self._asynchronous.fetch(link, to, wanted=wanted, first=first, progress=report), show
            )

    def files(self, link: Link | Path | str) -> tuple[FileEntry, ...]:
        """The files of a content: paths and lengths."""
        return self._call(self._asynchronous.files, link)

    def open(self, link: Link | Path | str, path: str | None = None) -> io.BufferedReader:
        """A file of a content that is read while it is being fetched: what is read next is fetched next.

        Args:
            link: What `fetch` takes.
            path: Which of its files (see `files`); not needed where there is only one.

        Returns:
            A file for reading, open until it is closed; ``with hive.open(...) as file`` does that.
        """
        from hivemind_p2p.content_file import open_file

        return open_file(self._call(self._asynchronous.open, link, path), self._portal)

    def contents(self) -> ContentList:
        """What this peer has fetched and what it shares."""
        return self._call(self._asynchronous.contents)

    def pin(self, link: Link | str, *, pinned: bool = True) -> None:
        """Says whether a content stays when room is made for others. See `AsyncHive.pin`."""
        self._call(lambda: self._asynchronous.pin(link, pinned=pinned))

    def remove(self, link: Link | str) -> None:
        """Serves a content no more, and removes what was fetched of it. See `AsyncHive.remove`."""
        self._call(self._asynchronous.remove, link)

    def statistics(self) -> dict[str, Any]:
        """The figures of every service of this peer, by its name."""
        return self._call(self._asynchronous.statistics)

    def publish_model(self, folder: Path | str, *, stages: int | None = None, by_hand: bool = False) -> Link:
        """Shares a checkpoint folder and announces it. See `AsyncHive.publish_model`."""
        return self._call(lambda: self._asynchronous.publish_model(folder, stages=stages, by_hand=by_hand))

    def load_model(
        self,
        link: Link | str,
        *,
        placement: Placement | None = None,
        timeout: float = 120.0,
        progress: bool | Callable[[LoadProgress], None] = True,
    ) -> Model:
        """Waits, with progress, until every layer of a published model has a host.

        Args:
            link: What `publish_model` gave.
            placement: Which layers to ask whom for, as in ``{"peer-1": (0, 4), "peer-2": (4, 12)}``: for a peer's id
                or name, its first layer and the one behind its last. By default the peers decide.
            timeout: Seconds to wait.
            progress: Whether to show a bar (HTML in a notebook), or what to call instead.

        Raises:
            MissingLayersError: Some layers had no host after `timeout` seconds; the error names them.
        """
        from hivemind_p2p.notebook.progress import load_view

        self._check_open()
        with load_view(shown=progress is True) as show:
            model = self._portal.call_watched(
                lambda report: self._asynchronous.load_model(
                    link, placement=placement, timeout=timeout, progress=report
                ),
                progress if callable(progress) else show,
            )
        return Model(model, self._portal)

    def peers(self) -> PeerList:
        """Who is in the hive and what they lend."""
        return self._call(self._asynchronous.peers)

    def balance(self) -> Balance:
        """What the account has, and what is set aside for work under way."""
        return self._call(self._asynchronous.balance)

    def statement(self, limit: int = 100) -> Statement:
        """The account's last rows in the ledger, newest first."""
        return self._call(self._asynchronous.statement, limit)

    def ledger(self) -> Ledger:
        """The totals by account that the bootstrap shows this account, and the sum of all rows, which is zero."""
        return self._call(self._asynchronous.ledger)

    def close(self) -> None:
        """Leaves the hive: cancels what runs, settles, says goodbye. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        current.closed(self)
        self._forget()
        self._life.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return "<Hive: closed>"
        return f"<Hive: peer {self.peer_id[-6:]} of bootstrap {self._asynchronous.peer.bootstrap_id[-6:]}>"

    def _repr_html_(self) -> str:
        from hivemind_p2p.notebook.reprs import hive_html

        return hive_html(self)

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("this hive is closed", hint="Connect again with hm.connect(...).")

    def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        self._check_open()
        return self._portal.call(function, *args)


def connect(
    bootstrap: str | None = None,
    *,
    username: str | None = None,
    password: str | None = None,
    identity: Path | str | None = None,
    **settings: Any,
) -> Hive:
    """Joins a hive that runs.

    Each argument that is not given comes from ``HIVEMIND_P2P_*``, then ``config.toml``, then the defaults.

    Args:
        bootstrap: The bootstrap's multiaddr, with its ``/p2p/`` part.
        username: The account that pays; without one only what is free can be used.
        password: Its password.
        identity: A key file; by default this program is a new peer each time.
        **settings: Any other field of `config.Settings`.

    Raises:
        BootstrapUnreachableError: Nobody answers at that address.
        AuthenticationError: Wrong password, or no such account.
        ConfigurationError: No bootstrap was named anywhere.
    """
    chosen = config.load(bootstrap=bootstrap, username=username, password=password, identity=identity, **settings)
    return Hive(chosen)


class _Life:
    """An open hive in a task of its own on the portal, from joining to leaving."""

    def __init__(self, bridge: portal.Portal, settings: config.Settings) -> None:
        self._bridge = bridge
        self._settings = settings
        self._closing = trio.Event()
        self._opened: Future[AsyncHive] = Future()
        self._ended = threading.Event()
        self._task = bridge.start(self._live)

    def opened(self) -> AsyncHive:
        """Waits until the hive is joined."""
        try:
            return self._opened.result()
        except BaseException:
            # It still lets go of its folder and its port: whoever gave it those may take them away right after this.
            self._task.cancel()
            self._ended.wait(CLOSE_DEADLINE)
            raise

    def close(self) -> None:
        """Leaves the hive and waits for that."""
        self._bridge.call(self._begin_to_close)
        futures.wait([self._task], CLOSE_DEADLINE)

    async def _live(self) -> None:
        try:
            async with open_peer(self._settings) as peer, trio.open_nursery() as nursery:
                hive = AsyncHive(peer, nursery)
                self._opened.set_result(hive)
                try:
                    await self._closing.wait()
                finally:
                    hive.close()  # also where a service failed: what is submitted from now on must not wait for ever
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(_cause(error))
            raise
        finally:
            self._ended.set()

    async def _begin_to_close(self) -> None:
        self._closing.set()


def _cause(error: BaseException) -> BaseException:
    """The one error inside nested groups of one: what the caller can act upon."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
