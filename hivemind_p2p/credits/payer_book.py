"""What a payer has set aside for one payee, and what it has promised of it. Decides; asks nobody.

Every `authorise` reserves its limit in a hold; the `pay` that follows turns the reservation into a promise of what
the work really cost. Many pieces of work share one hold, so their reservations and promises have to fit together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from hivemind_p2p.credits.vouchers import HOLD_LIFETIME, Hold, Voucher
from hivemind_p2p.errors import VoucherError
from hivemind_p2p.proto import common_pb2

RENEW_BEFORE = HOLD_LIFETIME / 4
"""Seconds before its end a hold takes no new work: what was begun can still be paid from it."""

RESERVATION_LIFETIME = HOLD_LIFETIME / 4
"""Seconds a reservation counts. Work that fails is never paid, and its reservation must not block the hold for ever;
the payee forgets its side of it earlier (see `earner_book`), so that both agree that there is room."""

RELEASE_AFTER = 30.0
"""Seconds for which a released reservation still counts: until then the payee may not have noticed that the work was
given up, and would refuse other work in its place."""

MOST_FORGOTTEN = 1024
"""Reservations that no longer count but may still be paid: work that takes longer than the lifetime above."""


@dataclass(slots=True)
class OpenHold:
    """A hold, how much of it is promised, and how much is reserved for work under way."""

    hold: Hold
    certificate: common_pb2.Signed
    promised: int = 0
    reserved: int = 0

    @property
    def room(self) -> int:
        """What is neither promised nor reserved."""
        return self.hold.amount - self.promised - self.reserved

    @property
    def voucher(self) -> Voucher:
        """The promise so far."""
        return Voucher(self.hold.hold_id, self.hold.payer, self.hold.payee, self.promised)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for one piece of work; `open_hold` is None once the reservation no longer counts."""

    limit: int
    made_at: float
    open_hold: OpenHold | None


class PayerBook:
    """The holds for one payee."""

    def __init__(self) -> None:
        self.holds: list[OpenHold] = []
        self._reservations: deque[Reservation] = deque()
        self._released: deque[Reservation] = deque()
        self._forgotten: deque[Reservation] = deque(maxlen=MOST_FORGOTTEN)

    def add(self, hold: Hold, certificate: common_pb2.Signed) -> OpenHold:
        """Enters a hold that the bootstrap has just made."""
        open_hold = OpenHold(hold, certificate)
        self.holds.append(open_hold)
        return open_hold

    def reserve(self, limit: int, now: float) -> OpenHold | None:
        """Reserves room for work of up to `limit`; None where no hold has the room."""
        self._forget(now)
        for open_hold in self.holds:
            if open_hold.room >= limit and now < open_hold.hold.expires_at - RENEW_BEFORE:
                open_hold.reserved += limit
                self._reservations.append(Reservation(limit, now, open_hold))
                return open_hold
        return None

    def release(self, limit: int, now: float) -> None:
        """Gives back a reservation of this limit whose work will not be billed; does nothing if there is none."""
        found = next((item for item in self._reservations if item.limit == limit), None)
        if found is not None:
            self._reservations.remove(found)
            self._released.append(replace(found, made_at=now))

    def claim(self, limit: int) -> Reservation:
        """Takes out the oldest reservation of this limit: one `authorise` pays for one receipt.

        Raises:
            VoucherError: Nothing was authorised that is not already paid.
        """
        for reservations in (self._reservations, self._forgotten):
            found = next((item for item in reservations if item.limit == limit), None)
            if found is not None:
                reservations.remove(found)
                _free(found)
                return found
        raise VoucherError("a receipt came for work that was not authorised, or is paid already")

    def promise(self, reservation: Reservation, amount: int, now: float) -> OpenHold | None:
        """Promises `amount` for a claimed reservation; None where a new hold is needed for it."""
        candidates = [reservation.open_hold] if reservation.open_hold is not None else []
        for open_hold in [*candidates, *self.holds]:
            if open_hold.room >= amount and now < open_hold.hold.expires_at:
                open_hold.promised += amount
                return open_hold
        return None

    def _forget(self, now: float) -> None:
        while self._released and now - self._released[0].made_at > RELEASE_AFTER:
            _free(self._released.popleft())
        while self._reservations and now - self._reservations[0].made_at > RESERVATION_LIFETIME:
            old = self._reservations.popleft()
            _free(old)
            self._forgotten.append(replace(old, open_hold=None))
        self.holds = [item for item in self.holds if now < item.hold.expires_at]


def _free(reservation: Reservation) -> None:
    if reservation.open_hold is not None:
        reservation.open_hold.reserved -= reservation.limit
