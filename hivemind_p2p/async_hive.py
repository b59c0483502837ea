"""The hive for programs that run trio: what `Hive` crosses the portal to, and what owns the peer."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from hivemind_p2p import config, telemetry
from hivemind_p2p.credits.accounts import AccountClient
from hivemind_p2p.errors import (
    AccountRequiredError,
    ConfigurationError,
    HivemindError,
    NetworkError,
    UnknownJobError,
)
from hivemind_p2p.job import Job
from hivemind_p2p.job_listener import JobListener
from hivemind_p2p.model import AsyncModel
from hivemind_p2p.peer import Peer, open_peer
from hivemind_p2p.task_methods import FUNCTION, TaskMethods
from hivemind_p2p.tasks.job_book import JobBook
from hivemind_p2p.tasks.options import ORDINARY, Options
from hivemind_p2p.tasks.references import INLINE_BYTES, Reference
from hivemind_p2p.tasks.special import SpecialTasks
from hivemind_p2p.types import ByteRange, FileEntry, Link
from hivemind_p2p.views import Balance, ContentList, Ledger, PeerList, Statement, peer_rows

if TYPE_CHECKING:
    from hivemind_p2p.bt.reader import Reader
    from hivemind_p2p.interfaces import Progress
    from hivemind_p2p.jobs_page.book import JobsBook
    from hivemind_p2p.sharding.model import LoadProgress, Placement
    from hivemind_p2p.tasks.spec import TaskSpec

T = TypeVar("T")

_events = telemetry.source("hive")


class AsyncHive(TaskMethods):
    """A connection to a hive, for programs that run trio. Made by `open_hive`."""

    def __init__(self, peer: Peer, nursery: trio.Nursery) -> None:
        self.peer = peer
        self._nursery = nursery
        self._closed = False
        self._token = trio.lowlevel.current_trio_token()
        self._inbox: deque[tuple[Job[Any], TaskSpec, Options]] = deque()
        self._rung = False
        self._put_folder: Path | None = None
        self._put_count = itertools.count()
        self._open: set[JobListener] = set()
        self._shown: JobsBook | None = None
        self._page = ""
        accounts = self._book_of_accounts = peer.accounts or AccountClient(peer.network, peer.bootstrap_id)
        self._book = JobBook(peer.folder / "jobs") if peer.settings.data is not None else None
        if self._book is not None:
            self._book.tidy()
        self._special = SpecialTasks(peer.tasks, peer.offers, accounts, peer.peer_id, nursery, self._book)

    def launch(self, job: Job[Any], spec: TaskSpec, options: Options) -> None:
        """Starts a task for a job; may be called from any thread. Many at once cross to the trio thread together."""
        if options.keep and not spec.again:
            self._kept().begin(spec, job.name)
        self._inbox.append((job, spec, options))
        if not self._rung:
            self._rung = True
            self.from_anywhere(self._take_inbox)

    def job(self, job_id: str) -> Job[Any]:
        """A job by its id, also one that an earlier program with the same data folder started with ``keep=True``.

        What has ended gives its result at once. What has not is taken up again with the peer that has it; if that peer
        is gone, it runs elsewhere, or is lost if it must not run twice.

        Raises:
            UnknownJobError: There is no such job.
        """
        running = next((listener.job for listener in list(self._open) if listener.job.id == job_id), None)
        if running is not None:
            return running
        kept = self._kept(UnknownJobError).read(job_id)
        job: Job[Any] = Job(job_id, kept.name)
        if kept.result is not None:
            result = kept.result
            job.moved("COMPLETED", None)
            job.complete(result.value, peer=result.peer, cost=result.cost, output=result.output)
        elif kept.error is not None:
            job.moved("FAILED", kept.peer)
            job.fail(kept.error)
        else:
            begun = kept.peer is not None
            peers = frozenset([kept.peer]) if kept.peer is not None else None
            self.launch(job, replace(kept.spec, again=begun, peers=peers), _as_kept(kept.spec))
        return job

    def jobs(self) -> list[str]:
        """The ids of all jobs that were started with ``keep=True`` and are kept still, the newest last."""
        return self._kept().ids()

    def forget_job(self, job_id: str) -> None:
        """Keeps a job no longer; cancel it first where it still runs."""
        self._kept().forget(job_id)

    def _kept(self, error: type[HivemindError] = ConfigurationError) -> JobBook:
        if self._book is None:
            raise error("this hive keeps no jobs", hint="Name a folder for its data: connect(..., data=...).")
        return self._book

    async def page(self) -> str:
        """The address of a page that shows this hive's jobs in the browser: their states, changes and output.

        Served from the first call on, to this machine only; whoever knows the address sees the jobs, so keep it to
        yourself. It shows those that run now and that are started later.
        """
        from hivemind_p2p.jobs_page.book import JobsBook
        from hivemind_p2p.jobs_page.server import serve

        if not self._page:
            self._shown = JobsBook()
            for listener in sorted(self._open, key=lambda listener: listener.job.id):
                self._shown.add(listener.job)
            self._page = str(await self._nursery.start(serve, self._shown))
        return self._page

    def cores(self) -> int:
        """Cores that the hive lent to functions when it was last looked at; at least one."""
        return max(1, int(sum(offer.cpus for offer in self.peer.offers.known if FUNCTION in offer.task_types)))

    async def put(self, value: T) -> Reference[T]:
        """Packs a value that many tasks use once, for as long as this hive is open.

        Returns:
            What stands for it in the arguments of tasks, however deep: the function gets the value. A peer fetches it
            once, from whoever has it by then, and keeps it for the next task.

        Raises:
            NotSerializableError: It cannot be packed.
        """
        from hivemind_p2p.tasks.library.function import pack_file

        if self._put_folder is None:
            self.peer.folder.joinpath("put").mkdir(exist_ok=True)
            self._put_folder = Path(tempfile.mkdtemp(dir=self.peer.folder / "put"))
        path = self._put_folder / f"value-{next(self._put_count)}"
        await trio.to_thread.run_sync(pack_file, value, path)
        length = path.stat().st_size
        if length <= INLINE_BYTES:
            data = path.read_bytes()
            path.unlink()
            return Reference(data, None, length)
        return Reference(None, await self.peer.content.share(path), length)

    def _take_inbox(self) -> None:
        self._rung = False
        tasks, inbox = self.peer.tasks, self._inbox
        while inbox:
            job, spec, options = inbox.popleft()
            if self._closed:
                job.fail(ConfigurationError("this hive is closed", hint="Connect again with hm.connect(...)."))
                continue
            listener = JobListener(self, job, keep=options.keep)
            self._open.add(listener)
            if self._shown is not None:
                self._shown.add(job)
            if options.ordinary:
                listener.end_work = partial(tasks.cancel, tasks.start(spec, listener))
            else:
                listener.end_work = self._special.start(spec, options, listener)
            job.when_cancelled(listener.cancel)
        tasks.go_on()

    def forget(self, listener: JobListener) -> None:
        """A job has ended."""
        self._open.discard(listener)

    def from_anywhere(self, function: Callable[[], None]) -> None:
        """Runs `function` on the trio thread soon; may be called from any thread."""
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            return  # the work ended with the loop

    def close(self) -> None:
        """Cancels what runs. Leaving `open_hive` does this."""
        self._closed = True
        for listener in list(self._open):
            if listener.keep:
                listener.leave()
            else:
                listener.job.cancel()
        self._take_inbox()
        if self._put_folder is not None:
            shutil.rmtree(self._put_folder, ignore_errors=True)
        self._nursery.cancel_scope.cancel()

    async def share(self, path: Path | str, *, torrent: Path | str | None = None) -> Link:
        """Shares a file or folder from where it lies, for as long as this hive is open.

        Args:
            path: What to share. What was hashed before and has not changed since is not hashed again.
            torrent: Where to write a ``.torrent`` file for BitTorrent clients outside of the hive. In an open hive it
                names the hive's tracker.
        """
        link = await self.peer.content.share(_local(path))
        if torrent is not None:
            await self.peer.content.write_torrent(link, _local(torrent), trackers=await self._trackers(link))
        return link

    async def _trackers(self, link: Link) -> list[str]:
        from hivemind_p2p.bt.link import infohash_of
        from hivemind_p2p.bt.tracker_address import register_with_tracker

        if self.peer.settings.hive_key is not None:
            return []  # what a private hive shares is nobody else's business
        try:
            tracker = await register_with_tracker(self.peer.network, self.peer.bootstrap_id, infohash_of(link))
        except NetworkError as error:
            _events.warning("no_tracker_address", reason=error.message)
            return []
        return [tracker] if tracker else []

    async def fetch(
        self,
        link: Link | Path | str,
        to: Path | str | None = None,
        *,
        wanted: Mapping[str, Sequence[ByteRange]] | None = None,
        first: Mapping[str, Sequence[ByteRange]] | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Fetches a content and returns where it lies; it is served to others from then on.

        Args:
            link: What `share` gave, any magnet link of BitTorrent version 2, or the path of a ``.torrent`` file.
            to: The folder to put it in; by default one of this peer's own.
            wanted: Byte ranges by file path, where not everything is wanted.
            first: Those that are fetched before all others, in this order.
            progress: Called on each piece.
        """
        content, folder = self.peer.content, _local(to) if to is not None else None
        return await content.fetch(await self._link(link), to=folder, wanted=wanted, first=first, progress=progress)

    async def files(self, link: Link | Path | str) -> tuple[FileEntry, ...]:
        """The files of a content: paths and lengths."""
        return await self.peer.content.files(await self._link(link))

    async def open(self, link: Link | Path | str, path: str | None = None) -> Reader:
        """Reads a file of a content while it is being fetched; see `Reader`. Close it, or use ``async with``.

        Args:
            link: Which content; what `fetch` takes.
            path: Which of its files; not needed where there is only one.
        """
        return await self.peer.content.open(await self._link(link), path)

    async def contents(self) -> ContentList:
        """What this peer has fetched and what it shares."""
        return ContentList.of(self.peer.content.statistics())

    async def pin(self, link: Link | str, *, pinned: bool = True) -> None:
        """Says whether a content stays when room is made for others (``storage=``).

        Raises:
            ContentError: This peer has nothing of it.
        """
        await self.peer.content.pin(Link(str(link)), pinned=pinned)

    async def remove(self, link: Link | str) -> None:
        """Serves a content no more; its files go too where they lie in this peer's own folder.

        Raises:
            ContentError: This peer has nothing of it, or it is being fetched.
        """
        await self.peer.content.remove(Link(str(link)))

    async def statistics(self) -> dict[str, Any]:
        """The figures of every service of this peer, by its name."""
        return self.peer.statistics()

    async def _link(self, link: Path | str) -> Link:
        from hivemind_p2p.bt.link import is_magnet

        text = str(link)
        # What is neither gets the message of a link that is wrong.
        if is_magnet(text) or not (isinstance(link, Path) or _local(text).is_file()):
            return Link(text)
        return await self.peer.content.read_torrent(_local(link))

    async def publish_model(self, folder: Path | str, *, stages: int | None = None, by_hand: bool = False) -> Link:
        """Shares a checkpoint folder and announces it, so that peers that serve models host its layers.

        Args:
            folder: A Hugging Face checkpoint folder.
            stages: In how many spans to cut it at least; by default as many as there are willing peers.
            by_hand: Peers then host nothing of it by themselves, only what ``load_model(placement=…)`` asks them to.

        Raises:
            CheckpointError: The folder is no complete checkpoint.
        """
        return await self.peer.models.publish(_local(folder), stages=stages, placed_by_hand=by_hand)

    async def load_model(
        self,
        link: Link | str,
        *,
        placement: Placement | None = None,
        timeout: float = 120.0,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> AsyncModel:
        """Waits until every layer of a published model has a host. See `Hive.load_model`.

        Raises:
            MissingLayersError: Some layers had no host after `timeout` seconds; the error names them.
        """
        remote = await self.peer.models.load(Link(link), placement=placement, progress=progress, timeout=timeout)
        return AsyncModel(remote, self._nursery)

    async def peers(self) -> PeerList:
        """Who is in the hive and what they lend."""
        offers = await self.peer.offers.offers(fresh=True)
        try:
            complaints = await self._book_of_accounts.complaints_about([offer.peer.peer_id for offer in offers])
        except NetworkError as error:
            _events.info("reputation_unknown", reason=error.message)
            complaints = {}
        return PeerList(peer_rows(offers, self.peer.peer_id, complaints))

    async def balance(self) -> Balance:
        """What the account has, and what is set aside for work under way."""
        return Balance.of(await self._accounts().balance())

    async def statement(self, limit: int = 100) -> Statement:
        """The account's last rows in the ledger, newest first."""
        return Statement.of(await self._accounts().statement(limit))

    async def ledger(self) -> Ledger:
        """The totals by account that the bootstrap shows this account, and the sum of all rows, which is zero."""
        return Ledger.of(await self._accounts().overview())

    def _accounts(self) -> Any:
        if self.peer.accounts is None:
            raise AccountRequiredError("this peer has no account")
        return self.peer.accounts


@asynccontextmanager
async def open_hive(
    bootstrap: str | None = None,
    *,
    username: str | None = None,
    password: str | None = None,
    identity: Path | str | None = None,
    **settings: Any,
) -> AsyncIterator[AsyncHive]:
    """Joins a hive from a trio program.

    Example:
        >>> async def main():
        ...     async with open_hive("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...") as hive:
        ...         print(await hive.submit(pow, 2, 10))

    Args are those of `connect`.
    """
    chosen = config.load(bootstrap=bootstrap, username=username, password=password, identity=identity, **settings)
    async with open_peer(chosen) as peer, trio.open_nursery() as nursery:
        hive = AsyncHive(peer, nursery)
        try:
            yield hive
        finally:
            hive.close()


def _as_kept(spec: TaskSpec) -> Options:
    """Options for a job that is taken up again; what it needs stands in the spec."""
    return ORDINARY.but(keep=True, idempotent=spec.idempotent)


def _local(path: Path | str) -> Path:
    return Path(path).expanduser()
