"""Tasks that are not simply given to any one peer.

Those that several have to agree about (`verification`), and those whose results are pickles, which only peers of the
caller's own account may give.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from hivemind_p2p.errors import (
    AccountRequiredError,
    HivemindError,
    NoPeerError,
    ProtocolError,
    TaskError,
    TaskLostError,
)
from hivemind_p2p.tasks.spec import TaskListener, TaskResult, TaskSpec, TaskState
from hivemind_p2p.tasks.verification import VerifiedTask
from hivemind_p2p.types import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable

    from hivemind_p2p.interfaces import AccountBook, OfferBook
    from hivemind_p2p.tasks.client import TaskClient
    from hivemind_p2p.tasks.course import Course
    from hivemind_p2p.tasks.job_book import JobBook
    from hivemind_p2p.tasks.options import Options


class SpecialTasks:
    """Starts them.

    Args:
        client: What runs tasks.
        offers: Who could.
        accounts: Whose they are.
        me: This peer.
        nursery: Where they live.
        book: Where kept ones are written down; None where nothing can be kept.
    """

    def __init__(
        self,
        client: TaskClient,
        offers: OfferBook,
        accounts: AccountBook,
        me: PeerId,
        nursery: trio.Nursery,
        book: JobBook | None = None,
    ) -> None:
        self._book = book
        self._client = client
        self._offers = offers
        self._accounts = accounts
        self._me = me
        self._nursery = nursery

    def start(self, spec: TaskSpec, options: Options, listener: TaskListener) -> Callable[[], None]:
        """Starts a task; what is given back ends it."""
        if options.verify is not None:
            verified = VerifiedTask(self._client, self._offers, self._accounts, spec, options.verify, listener)
            self._nursery.start_soon(verified.run)
            return verified.cancel
        if options.keep:
            kept = _KeptTask(self._client, spec, listener, self._book)
            kept.start()
            return kept.cancel
        trusted = _TrustedTask(self._client, spec, listener)
        self._nursery.start_soon(self._start_trusted, trusted)
        return trusted.cancel

    async def _start_trusted(self, trusted: _TrustedTask) -> None:
        try:
            trusted.start(await self._own_peers())
        except HivemindError as error:
            trusted.failed(error)

    async def _own_peers(self) -> frozenset[PeerId]:
        peers = [offer.peer.peer_id for offer in await self._offers.offers(fresh=True)]
        owners = await self._accounts.accounts_of([self._me, *peers])
        me = owners.get(self._me)
        if me is None:
            raise AccountRequiredError("pickles are taken from peers of one's own account only, and this has none")
        own = frozenset(peer for peer in peers if owners.get(peer) == me)
        if not own:
            raise NoPeerError(f"no peer of the account {me!r} lends anything", hint="Start one under this account.")
        return own


class _KeptTask:
    """A task that is written down; a `TaskListener` that does so."""

    def __init__(self, client: TaskClient, spec: TaskSpec, listener: TaskListener, book: JobBook | None) -> None:
        assert book is not None
        self._client = client
        self._spec = spec
        self._listener = listener
        self._book = book
        self._course: Course | None = None
        self._peer: PeerId | None = None

    def start(self) -> None:
        """Starts it, or takes it up again where it is."""
        self._course = self._client.start(self._spec, self)
        self._client.go_on()

    def _go_on(self, spec: TaskSpec) -> None:
        self._spec = spec
        self.start()

    def cancel(self) -> None:
        """Ends it for good."""
        if self._course is not None:
            self._client.cancel(self._course)
        self._book.forget(self._spec.task_id)

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Notes with whom it is, and passes it on."""
        if state is TaskState.ASSIGNED and peer is not None:
            self._peer = peer
            self._book.assigned(self._spec.task_id, peer)
        self._listener.moved(state, peer)

    def printed(self, data: bytes) -> None:
        """Passes it on."""
        self._listener.printed(data)

    def ended(self, result: TaskResult) -> None:
        """Notes it, and passes it on."""
        self._book.ended(self._spec.task_id, result)
        self._listener.ended(result)

    def failed(self, error: BaseException) -> None:
        """Where a peer was lost: asks it again, or others if it may run twice. Else notes it, and passes it on."""
        spec = self._spec
        if isinstance(error, TaskLostError) and not spec.again and self._peer is not None:
            self._go_on(replace(spec, again=True, peers=frozenset([self._peer])))
            return
        gone = spec.again and (isinstance(error, NoPeerError) or not isinstance(error, TaskError))
        if gone and spec.idempotent:
            self._go_on(replace(spec, again=False, peers=None))
            return
        if gone and isinstance(error, HivemindError):
            error = TaskLostError(f"it may have begun with a peer that is gone: {error.message}")
        if isinstance(error, HivemindError):
            self._book.failed(self._spec.task_id, error)
        self._listener.failed(error)


class _TrustedTask:
    """A task whose result is a pickle; a `TaskListener` that opens it."""

    def __init__(self, client: TaskClient, spec: TaskSpec, listener: TaskListener) -> None:
        self._client = client
        self._spec = spec
        self._listener = listener
        self._own: frozenset[PeerId] = frozenset()
        self._cancelled = False
        self._cancel: Callable[[], None] | None = None

    def start(self, own: frozenset[PeerId]) -> None:
        """Starts it on one of these peers."""
        if self._cancelled:
            return
        self._own = own
        course = self._client.start(replace(self._spec, peers=own), self)
        self._cancel = lambda: self._client.cancel(course)
        self._client.go_on()

    def cancel(self) -> None:
        """Ends it."""
        self._cancelled = True
        if self._cancel is not None:
            self._cancel()

    def moved(self, state: TaskState, peer: PeerId | None) -> None:
        """Passes it on."""
        self._listener.moved(state, peer)

    def printed(self, data: bytes) -> None:
        """Passes it on."""
        self._listener.printed(data)

    def ended(self, result: TaskResult) -> None:
        """Opens the pickle. It is one's own peer that made it, and nobody else's."""
        if result.peer not in self._own or not isinstance(result.value, bytes):
            self._listener.failed(ProtocolError(f"peer {result.peer} sent something else than a pickle"))
            return
        try:
            value = pickle.loads(result.value)  # noqa: S301 - made by a peer of the caller's own account
        except Exception as error:  # a class that is not here, for example
            wrong = ProtocolError(f"what peer {result.peer} sent cannot be unpickled here: {error!r}"[:500])
            self._listener.failed(wrong)
            return
        self._listener.ended(replace(result, value=value))

    def failed(self, error: BaseException) -> None:
        """Passes it on."""
        self._listener.failed(error)
