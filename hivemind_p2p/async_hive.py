"""The hive for programs that run trio: what `Hive` crosses the portal to, and what owns the peer."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from hivemind_p2p import config, telemetry
from hivemind_p2p.errors import (
    AccountRequiredError,
    ConfigurationError,
    NetworkError,
    NotSerializableError,
)
from hivemind_p2p.job import Job, JobList, new_job_id
from hivemind_p2p.job_listener import JobListener
from hivemind_p2p.model import AsyncModel
from hivemind_p2p.peer import Peer, open_peer
from hivemind_p2p.types import ByteRange, Credits, FileEntry, Link, Needs, SharedPart
from hivemind_p2p.views import Balance, ContentList, Ledger, PeerList, Statement, peer_rows

if TYPE_CHECKING:
    from hivemind_p2p.bt.reader import Reader
    from hivemind_p2p.interfaces import Progress
    from hivemind_p2p.sharding.model import LoadProgress
    from hivemind_p2p.tasks.spec import TaskSpec

T = TypeVar("T")

_events = telemetry.source("hive")

FUNCTION = "function/1"
"""The task type of Python functions."""

ORDINARY = Needs()
"""What a task needs unless told otherwise."""

MAX_COST = Credits(1_000_000)
"""One credit: what one task may cost unless told otherwise, so that a greedy offer cannot empty an account."""


class AsyncHive:
    """A connection to a hive, for programs that run trio. Made by `open_hive`."""

    def __init__(self, peer: Peer, nursery: trio.Nursery) -> None:
        self.peer = peer
        self._nursery = nursery
        self._closed = False
        self._token = trio.lowlevel.current_trio_token()
        self._inbox: deque[tuple[Job[Any], TaskSpec]] = deque()
        self._rung = False
        self._open: set[JobListener] = set()

    def submit(self, function: Callable[..., T], /, *args: Any, needs: Needs | None = None, **kwargs: Any) -> Job[T]:
        """Starts ``function(*args, **kwargs)`` on some peer; await the job for its result.

        Raises:
            NotSerializableError: The function or an argument cannot be packed.
        """
        from hivemind_p2p.tasks.library.packing import pack_parts

        job = new_job(function)
        shared, payload = pack_parts(function, args, kwargs)
        self.start_packed(job, payload, needs or ORDINARY, shared=shared)
        return job

    def map(self, function: Callable[[Any], T], items: Iterable[Any], *, needs: Needs | None = None) -> JobList[T]:
        """Starts ``function(item)`` for each item; the jobs are in the order of the items."""
        return JobList(self.submit(function, item, needs=needs) for item in items)

    def run_type(self, task_type: str, payload: bytes, *, needs: Needs | None = None) -> Job[Any]:
        """Has a payload run by the task type of this name; await the job for its result. See `Hive.run_type`."""
        job = typed_job(task_type, payload)
        self.start_packed(job, payload, needs or Needs(), task_type)
        return job

    def start_packed(
        self,
        job: Job[Any],
        payload: bytes,
        needs: Needs,
        task_type: str = FUNCTION,
        *,
        shared: SharedPart | None = None,
    ) -> None:
        """Starts work that is packed already; may be called from any thread."""
        from hivemind_p2p.tasks.spec import TaskSpec

        self.start(job, TaskSpec(job.id, task_type, payload, needs, MAX_COST, shared))

    def start(self, job: Job[Any], spec: TaskSpec) -> None:
        """Starts a task for a job; may be called from any thread. Many at once cross to the trio thread together."""
        self._inbox.append((job, spec))
        if not self._rung:
            self._rung = True
            self.from_anywhere(self._take_inbox)

    def _take_inbox(self) -> None:
        self._rung = False
        tasks, inbox = self.peer.tasks, self._inbox
        while inbox:
            job, spec = inbox.popleft()
            if self._closed:
                job.fail(ConfigurationError("this hive is closed", hint="Connect again with hm.connect(...)."))
                continue
            listener = JobListener(self, job)
            self._open.add(listener)
            listener.course = tasks.start(spec, listener)
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
            listener.job.cancel()
        self._take_inbox()
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

    async def publish_model(self, folder: Path | str, *, stages: int | None = None) -> Link:
        """Shares a checkpoint folder and announces it, so that peers that serve models host its layers.

        Args:
            folder: A Hugging Face checkpoint folder.
            stages: In how many spans to cut it; by default as many as there are willing peers.

        Raises:
            CheckpointError: The folder is no complete checkpoint.
        """
        return await self.peer.models.publish(_local(folder), stages=stages)

    async def load_model(
        self, link: Link | str, *, timeout: float = 120.0, progress: Callable[[LoadProgress], None] | None = None
    ) -> AsyncModel:
        """Waits until every layer of a published model has a host.

        Raises:
            MissingLayersError: Some layers had no host after `timeout` seconds; the error names them.
        """
        remote = await self.peer.models.load(Link(link), progress=progress, timeout=timeout)
        return AsyncModel(remote, self._nursery)

    async def peers(self) -> PeerList:
        """Who is in the hive and what they lend."""
        return PeerList(peer_rows(await self.peer.offers.offers(fresh=True), self.peer.peer_id))

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


def _local(path: Path | str) -> Path:
    return Path(path).expanduser()


def new_job(function: Callable[..., Any]) -> Job[Any]:
    """A job with an id of its own, named after its function."""
    from hivemind_p2p.notebook.tracebacks import source_file

    return Job(new_job_id(), getattr(function, "__qualname__", type(function).__name__), source_file(function))


def typed_job(task_type: str, payload: bytes) -> Job[Any]:
    """A job with an id of its own, named after its task type.

    Raises:
        TaskTypeError: That cannot be the name of a task type.
        NotSerializableError: The payload is larger than a task can be.
    """
    from hivemind_p2p.tasks.plugins import check_name
    from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES

    check_name(task_type)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise NotSerializableError(
            f"cannot send the payload: it has {len(payload):,} bytes, and a task {MAX_PAYLOAD_BYTES:,}",
            hint="Split the data into smaller tasks.",
        )
    return Job(new_job_id(), task_type)
