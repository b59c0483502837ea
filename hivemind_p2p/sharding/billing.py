"""What a stage is paid for its part of one generation."""

from __future__ import annotations

from hivemind_p2p import defaults
from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.interfaces import Channel, Earner
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import wire
from hivemind_p2p.sharding.requests import OpenRequest
from hivemind_p2p.types import Credits, PeerId, Prices


class Billing:
    """Counts a generation's rows and bills them: layers x tokens x price.

    Rows beyond what the caller has agreed to pay (drafts that were wrong, tokens that were computed twice) are free.

    Args:
        earner: Bills the caller; None in a hive without payment.
        prices: What this peer asks.
        request: What the caller asked for.
        caller: Who pays.
    """

    def __init__(self, earner: Earner | None, prices: Prices, request: OpenRequest, caller: PeerId) -> None:
        self._earner = earner
        self._request = request
        self._caller = caller
        self._price = len(request.span) * prices.per_layer_token
        self._rows = 0
        self._billed = False

    @property
    def limit(self) -> Credits:
        """The most that it can come to."""
        return Credits(self._price * self._request.paid_tokens)

    def computed(self, rows: int) -> None:
        """Rows were computed."""
        self._rows += rows

    async def admit(self) -> None:
        """Checks that the generation will be paid.

        Raises:
            PaymentRequiredError: It will not.
            VoucherError: The payment is forged or expired.
        """
        if self._earner is not None:
            await self._earner.admit(self._caller, self._request.payment, limit=self.limit)

    def dismiss(self) -> None:
        """The generation is over; if it was not billed it never will be."""
        if self._earner is not None and not self._billed:
            self._earner.dismiss(self._caller, limit=self.limit)

    async def bill(self, channel: Channel) -> None:
        """Sends the bill and takes the payment.

        Raises:
            ProtocolError: The caller answers with something else.
            VoucherError: The payment does not cover it.
        """
        if self._earner is None:
            await wire.send(channel, pb.FromStage(receipt=pb.Receipt()), defaults.REQUEST_DEADLINE)
            return
        tokens = min(self._rows, self._request.paid_tokens)
        what = f"layers {self._request.span} for {tokens} tokens"
        self._billed = True
        receipt = await self._earner.bill(
            self._caller,
            work_id=self._request.work_id,
            amount=Credits(self._price * tokens),
            what=what,
            limit=self.limit,
        )
        await wire.send(channel, pb.FromStage(receipt=pb.Receipt(receipt=receipt)), defaults.REQUEST_DEADLINE)
        answer = await wire.receive(channel, pb.ToStage, defaults.IDLE_DEADLINE, "pay")
        if answer.WhichOneof("kind") != "payment":
            raise ProtocolError(f"peer {self._caller} answered a receipt with something else than a payment")
        await self._earner.collect(self._caller, answer.payment.payment)


__all__ = ["Billing"]
