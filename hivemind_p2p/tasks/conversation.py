"""One task on one channel, as the caller sees it: from the request to the value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from hivemind_p2p.errors import DeadlineExceededError, NetworkError, ProtocolError
from hivemind_p2p.interfaces import Channel
from hivemind_p2p.proto import tasks_pb2
from hivemind_p2p.tasks import wire
from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES, TaskSpec

GRACE: Final = 10.0
"""Seconds beyond the task's own that a worker has to stop it and say so."""

LONGEST_WAIT: Final = 3600.0
"""Seconds that a task may lie in a worker's line, the worker showing life all the time."""

FAREWELL: Final = 1.0
"""Seconds for telling a worker to stop. If it does not hear it, it sees the channel close."""


class Conversation:
    """Sends a task and follows it.

    Args:
        channel: On which nothing else happens meanwhile.
        spec: The task.
        started: Called when the worker says that it has begun.
    """

    def __init__(self, channel: Channel, spec: TaskSpec, started: Callable[[], None]) -> None:
        self._channel = channel
        self._spec = spec
        self._started = started
        self.accepted = False

    async def run(self, payment: bytes) -> tuple[tasks_pb2.Finished, memoryview]:
        """Everything up to the end of the work; payment for it is the caller's next step.

        Raises:
            NetworkError: The worker was lost, fell silent, or broke the rules.
            TaskError: The worker refused the task.
            CreditError: The worker did not accept the payment.
        """
        with self._deadline(wire.transfer_deadline(len(self._spec.payload)), "take the task"):
            await self._channel.send(wire.request_message(self._spec, payment), self._spec.payload)
        with self._deadline(LONGEST_WAIT, "start the task"):
            await self._next("accepted")
            self.accepted = True
            await self._next("started")
        self._started()
        with self._deadline(self._spec.needs.seconds + GRACE, "end the task"):
            finished, payload = await self._next("finished")
        if finished.finished.value_bytes:
            payload = await self._value(finished.finished.value_bytes)
        return finished.finished, payload

    async def cancel(self) -> None:
        """Tells the worker to stop, if it still listens, and closes. Also while being cancelled."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(FAREWELL):
                await self._say_cancel()
            await self._channel.aclose()

    async def _say_cancel(self) -> None:
        try:
            await self._channel.send(tasks_pb2.FromCaller(cancel=tasks_pb2.Cancel()))
        except NetworkError:
            return  # closing the channel says the same

    async def _next(self, wanted: str) -> tuple[tasks_pb2.FromWorker, memoryview]:
        """The next message that is no mere sign of life."""
        while True:
            with self._deadline(wire.SILENCE_DEADLINE, "show life"):
                message, payload = await self._channel.receive(tasks_pb2.FromWorker, max_payload=wire.INLINE_BYTES)
            kind = message.WhichOneof("message")
            if kind == wanted:
                return message, payload
            if kind != "alive":
                raise ProtocolError(f"peer {self._channel.remote} sent {kind} instead of {wanted}")

    async def _value(self, length: int) -> memoryview:
        if length > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"peer {self._channel.remote} sent a value of {length:,} bytes")
        with self._deadline(wire.transfer_deadline(length), "send the value"):
            message, payload = await self._channel.receive(tasks_pb2.FromWorker, max_payload=length)
        if message.WhichOneof("message") != "value":
            raise ProtocolError(f"peer {self._channel.remote} sent something else than the value it announced")
        return payload

    def _deadline(self, seconds: float, what: str) -> _Deadline:
        return _Deadline(seconds, f"peer {self._channel.remote} did not {what} within {seconds:g} s")


class _Deadline:
    """`trio.fail_after`, with an error that says whom it was about."""

    def __init__(self, seconds: float, message: str) -> None:
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._message = message

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *error: object) -> bool:
        handled = self._scope.__exit__(*error)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise DeadlineExceededError(self._message)
        return bool(handled)
