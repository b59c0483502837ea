"""The bootstrap over the network: accounts, holds, settlement, and what attackers try."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from sqlalchemy import inspect, text

from hivemind_bootstrap import reports
from hivemind_bootstrap.accounts import ATTEMPTS_PER_NAME, ATTEMPTS_PER_PEER
from hivemind_bootstrap.database import Database
from hivemind_bootstrap.store import Store
from hivemind_p2p.credits.requests import ask
from hivemind_p2p.credits.vouchers import HOLD_GRACE, HOLD_LIFETIME, Hold, Voucher
from hivemind_p2p.credits.wire import (
    ACCOUNTS_PROTOCOL,
    CREDITS_PROTOCOL,
    MOST_CLAIMS,
    open_voucher,
    read_payment,
    seal_hold,
    seal_voucher,
)
from hivemind_p2p.defaults import WELCOME_CREDITS
from hivemind_p2p.errors import (
    AccountExistsError,
    AccountRequiredError,
    AuthenticationError,
    BusyError,
    DiskFullError,
    InsufficientCreditsError,
    ProtocolError,
    VoucherError,
)
from hivemind_p2p.identity import Identity
from hivemind_p2p.proto import accounts_pb2, common_pb2, credits_pb2
from hivemind_p2p.types import PeerInfo

from .conftest import PASSWORD

LIMIT = 300_000


async def _work(payer, worker, work_id, amount, what="function", limit=LIMIT):
    payment = await payer.purse.authorise(worker.peer_id, limit)
    await worker.till.admit(payer.peer_id, payment, limit=limit)
    receipt = await worker.till.bill(payer.peer_id, work_id=work_id, amount=amount, what=what)
    _, payment = await payer.purse.pay(worker.peer_id, receipt, work_id=work_id, limit=limit)
    await worker.till.collect(payer.peer_id, payment)
    return read_payment(payment)


async def _settle(member, bootstrap, *claims):
    request = credits_pb2.CreditsRequest(settle=credits_pb2.SettleRequest(claims=claims))
    answer = await ask(member.network, bootstrap, CREDITS_PROTOCOL, request, credits_pb2.CreditsAnswer)
    return list(answer.settle.outcomes)


# -- accounts --------------------------------------------------------------------------------------------------------


async def test_a_new_account_gets_its_welcome_credits(open_hive):
    async with open_hive() as hive:
        anna = await hive.member("anna")
        assert (await anna.accounts.balance()).available == WELCOME_CREDITS
        (row,) = await anna.accounts.statement()
        assert (row.what, row.amount, row.counterparty) == ("welcome credits", WELCOME_CREDITS, "hive")


async def test_many_peers_share_one_account_and_a_peer_has_one_at_a_time(open_hive):
    async with open_hive() as hive:
        await hive.member("anna")
        second = hive.join()
        await second.accounts.login("Anna ", PASSWORD)
        assert (await second.accounts.balance()).available == WELCOME_CREDITS
        await second.accounts.register("bert", PASSWORD)
        overview = await second.accounts.overview()
        assert [total.name for total in overview.totals] == ["hive", "bert"], "others' totals are theirs"
        assert overview.sum == 0


@pytest.mark.parametrize("name", ["anna", "nobody"])
async def test_a_wrong_password_and_an_unknown_name_are_told_in_the_same_words(open_hive, name):
    async with open_hive() as hive:
        await hive.member("anna")
        with pytest.raises(AuthenticationError, match=f"wrong password for '{name}', or no such account"):
            await hive.join().accounts.login(name, "wrong password")


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("an", PASSWORD),
        ("a" * 33, PASSWORD),
        ("an na", PASSWORD),
        ("änna", PASSWORD),
        ("x'; --", PASSWORD),
        ("anna", "short"),
        ("anna", "x" * 129),
    ],
)
async def test_malformed_names_and_passwords_are_refused(open_hive, name, password):
    async with open_hive() as hive:
        with pytest.raises(AuthenticationError):
            await hive.join().accounts.register(name, password)


async def test_a_name_is_given_once(open_hive):
    async with open_hive() as hive:
        await hive.member("anna")
        with pytest.raises(AccountExistsError):
            await hive.join().accounts.register("ANNA", PASSWORD)


async def test_a_full_disk_is_told_and_changes_nothing(database):
    def outgrow(db: Database) -> None:
        with db._writer.begin() as connection:
            connection.execute(text("PRAGMA max_page_count = 1"))  # SQLite takes the pages that there are now
            connection.execute(text("CREATE TABLE large (content BLOB)"))
            connection.execute(text("INSERT INTO large VALUES (zeroblob(10000000))"))

    with pytest.raises(DiskFullError, match="ledger is full"):
        await Store(database).write(outgrow)
    with database.reading() as connection:
        assert "large" not in inspect(connection).get_table_names()


async def test_a_closed_hive_takes_no_new_accounts(open_hive):
    async with open_hive(open_registration=False) as hive:
        with pytest.raises(AuthenticationError, match="no new accounts"):
            await hive.join().accounts.register("anna", PASSWORD)


async def test_guessing_is_slowed_down_by_peer_even_in_parallel(open_hive):
    async with open_hive() as hive:
        await hive.member("anna")
        guesser = hive.join()
        refused = []

        async def guess(number: int) -> None:
            with suppress(AuthenticationError):
                try:
                    await guesser.accounts.login("anna", f"wrong guess {number}")
                except BusyError as error:
                    refused.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(ATTEMPTS_PER_PEER + 5):
                nursery.start_soon(guess, number)
        assert len(refused) == 5
        hive.ahead += 61
        await guesser.accounts.login("anna", PASSWORD)


async def test_guessing_from_many_peers_is_slowed_down_but_does_not_lock_the_owner_out(open_hive):
    async with open_hive() as hive:
        anna = await hive.member("anna")
        for _ in range(ATTEMPTS_PER_NAME):
            with pytest.raises(AuthenticationError):
                await hive.join().accounts.login("anna", "wrong guess")
        with pytest.raises(BusyError, match="too many attempts"):
            await hive.join().accounts.login("anna", PASSWORD)
        await anna.accounts.login("anna", PASSWORD)


async def test_many_short_programs_of_one_user_are_not_taken_for_guesses(open_hive):
    async with open_hive() as hive:
        await hive.member("anna")
        for _ in range(ATTEMPTS_PER_NAME + 5):
            await hive.join().accounts.login("anna", PASSWORD)


async def test_without_an_account_there_is_nothing_to_see_or_spend(open_hive):
    async with open_hive() as hive:
        stranger = hive.join()
        worker = await hive.member("bert")
        for question in (
            stranger.accounts.balance,
            stranger.accounts.statement,
            stranger.accounts.overview,
        ):
            with pytest.raises(AccountRequiredError):
                await question()
        with pytest.raises(AccountRequiredError):
            await stranger.purse.authorise(worker.peer_id, LIMIT)


async def test_empty_and_oversized_requests_are_refused(open_hive):
    async with open_hive() as hive:
        anna = await hive.member("anna")
        for protocol, request, answer in (
            (ACCOUNTS_PROTOCOL, accounts_pb2.AccountsRequest(), accounts_pb2.AccountsAnswer),
            (CREDITS_PROTOCOL, credits_pb2.CreditsRequest(), credits_pb2.CreditsAnswer),
        ):
            with pytest.raises(ProtocolError):
                await ask(anna.network, hive.info.peer_id, protocol, request, answer)
        with pytest.raises(ProtocolError):
            await _settle(anna, hive.info.peer_id, *[credits_pb2.Claim()] * (MOST_CLAIMS + 1))


# -- money -----------------------------------------------------------------------------------------------------------


async def test_work_moves_credits_from_payer_to_worker_and_names_itself(open_hive, database):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        for number in range(3):
            await _work(anna, bert, f"task-{number}", 1_000)
        await _work(anna, bert, "task-x", 500, what="generation")
        await bert.till.drain()
        paid, earned = (await anna.accounts.statement())[0], (await bert.accounts.statement())[0]
        assert (paid.amount, paid.what, paid.counterparty) == (-3_500, "3 x function, generation", "bert")
        assert (earned.amount, earned.what, earned.counterparty) == (3_500, "3 x function, generation", "anna")
        balance = await anna.accounts.balance()
        assert balance.available + balance.held == WELCOME_CREDITS - 3_500
        assert (await bert.accounts.balance()).available == WELCOME_CREDITS + 3_500
        assert (await anna.accounts.overview()).sum == 0
        assert reports.mismatches(database) == []


async def test_one_owner_may_work_for_himself(open_hive):
    async with open_hive() as hive:
        anna = await hive.member("anna")
        other = hive.join()
        await other.accounts.login("anna", PASSWORD)
        await _work(anna, other, "w", 10)
        await other.till.drain()
        row = (await anna.accounts.statement())[0]
        assert (row.amount, row.counterparty) == (0, "yourself")


async def test_the_rest_goes_back_after_the_grace_and_not_before(open_hive, database):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        payment = await _work(anna, bert, "w", 10)
        hive.ahead = HOLD_LIFETIME + HOLD_GRACE - 5
        assert database.release_ended(hive.clock()) == 0
        (outcome,) = await _settle(anna, hive.info.peer_id, credits_pb2.Claim(voucher=payment.voucher))
        assert (outcome.settled, outcome.error_code) == (10, "")
        hive.ahead += 10
        assert database.release_ended(hive.clock()) == 1
        assert (await anna.accounts.balance()).available == WELCOME_CREDITS - 10
        assert (await anna.accounts.balance()).held == 0


async def test_a_voucher_after_the_grace_is_worth_nothing(open_hive):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        payment = await _work(anna, bert, "w", 10)
        hive.ahead = HOLD_LIFETIME + HOLD_GRACE + 1
        (outcome,) = await _settle(bert, hive.info.peer_id, credits_pb2.Claim(voucher=payment.voucher))
        assert outcome.error_code == VoucherError.code()
        assert (await bert.accounts.balance()).available == WELCOME_CREDITS


async def test_the_release_task_gives_back_what_has_ended(open_hive):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        await anna.purse.authorise(bert.peer_id, LIMIT)
        assert (await anna.accounts.balance()).held > 0
        hive.ahead = HOLD_LIFETIME + HOLD_GRACE + 1
        await hive.nursery.start(hive.credits.run)
        with trio.fail_after(5):
            while (await anna.accounts.balance()).held:
                await trio.lowlevel.checkpoint()
        assert (await anna.accounts.balance()).available == WELCOME_CREDITS


async def test_settling_again_in_any_order_pays_once(open_hive):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        claims = [
            credits_pb2.Claim(voucher=payment.voucher, receipts=[payment.receipt])
            for payment in [await _work(anna, bert, f"w{number}", 100) for number in range(4)]
        ]
        async with trio.open_nursery() as nursery:
            for claim in [*claims, *reversed(claims)]:
                nursery.start_soon(_settle, anna, hive.info.peer_id, claim)
        await _settle(bert, hive.info.peer_id, *claims, *claims)
        assert (await bert.accounts.balance()).available == WELCOME_CREDITS + 400


async def test_a_worker_that_signs_off_gives_the_rest_back_and_nobody_else_can(open_hive):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        payment = await _work(anna, bert, "w", 10)
        hold_id = open_voucher(payment.voucher).hold_id
        close = credits_pb2.CreditsRequest(close=credits_pb2.CloseRequest(hold_id=hold_id))
        with pytest.raises(VoucherError, match="not the payee"):
            await ask(anna.network, hive.info.peer_id, CREDITS_PROTOCOL, close, credits_pb2.CreditsAnswer)
        await bert.till.sign_off()
        balance = await anna.accounts.balance()
        assert (balance.available, balance.held) == (WELCOME_CREDITS - 10, 0)
        late = seal_voucher(anna.identity, Voucher(hold_id, anna.peer_id, bert.peer_id, 20))
        (outcome,) = await _settle(bert, hive.info.peer_id, credits_pb2.Claim(voucher=late))
        assert outcome.error_code == VoucherError.code()


async def test_a_payer_that_leaves_has_the_rest_of_its_holds_back_at_once(open_hive):
    async with open_hive() as hive:
        anna, bert, carl = [await hive.member(name) for name in ("anna", "bert", "carl")]
        await _work(anna, bert, "w", 10)
        await _work(anna, carl, "x", 20)
        await _work(carl, bert, "y", 30)
        for payee in (bert, carl):
            anna.network.learn(PeerInfo(payee.peer_id, payee.network.addresses))
        await anna.purse.close()
        balance = await anna.accounts.balance()
        assert (balance.available, balance.held) == (WELCOME_CREDITS - 30, 0)
        assert (await carl.accounts.balance()).held > 0, "what others set aside stays"
        await _work(anna, bert, "again", 5)
        await bert.till.drain()
        assert (await bert.accounts.balance()).available == WELCOME_CREDITS + 45


async def test_a_hold_beyond_the_balance_is_refused_with_its_own_error(open_hive):
    async with open_hive(welcome=1_000) as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        with pytest.raises(InsufficientCreditsError):
            await anna.purse.authorise(bert.peer_id, 1_001)
        assert (await anna.accounts.balance()).available == 1_000


async def test_a_worker_without_an_account_is_paid_once_it_has_one(open_hive):
    async with open_hive() as hive:
        anna, worker = await hive.member("anna"), hive.join()
        await _work(anna, worker, "w", 10)
        await worker.till.drain()
        assert worker.till.statistics().unsettled == 10
        await worker.accounts.register("late", PASSWORD)
        await worker.till.drain()
        assert (await worker.accounts.balance()).available == WELCOME_CREDITS + 10


# -- attacks ---------------------------------------------------------------------------------------------------------


async def test_vouchers_that_are_not_right_pay_nothing(open_hive):
    async with open_hive() as hive:
        anna, bert, carl = await hive.member("anna"), await hive.member("bert"), await hive.member("carl")
        payment = await _work(anna, bert, "w", 10)
        right = open_voucher(payment.voucher)
        hold_id, payer, payee = right.hold_id, right.payer, right.payee
        wrong = {
            "forged": seal_voucher(bert.identity, Voucher(hold_id, payer, payee, 1_000)),
            "redirected": seal_voucher(anna.identity, Voucher(hold_id, payer, carl.peer_id, 1_000)),
            "another payer's": seal_voucher(carl.identity, Voucher(hold_id, carl.peer_id, payee, 1_000)),
            "above the hold": seal_voucher(anna.identity, Voucher(hold_id, payer, payee, 10**12)),
            "of no hold": seal_voucher(anna.identity, Voucher("0" * 32, payer, payee, 1)),
            "garbage": common_pb2.Signed(body=b"\xff" * 10),
        }
        claims = [credits_pb2.Claim(voucher=voucher) for voucher in wrong.values()]
        outcomes = await _settle(bert, hive.info.peer_id, *claims, credits_pb2.Claim(voucher=payment.voucher))
        assert [outcome.error_code for outcome in outcomes] == [VoucherError.code()] * len(wrong) + [""]
        assert (await bert.accounts.balance()).available == WELCOME_CREDITS + 10
        assert (await carl.accounts.balance()).available == WELCOME_CREDITS


async def test_a_hold_of_another_bootstrap_is_no_money_here(open_hive):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        hold = Hold("ab" * 16, anna.peer_id, bert.peer_id, 10**9, hive.clock() + HOLD_LIFETIME)
        voucher = seal_voucher(anna.identity, Voucher(hold.hold_id, hold.payer, hold.payee, 5))
        payment = credits_pb2.Payment(hold=seal_hold(Identity(b"E" * 32), hold), voucher=voucher)
        with pytest.raises(VoucherError, match="signature"):
            await bert.till.admit(anna.peer_id, payment.SerializeToString(), limit=5)
        (outcome,) = await _settle(bert, hive.info.peer_id, credits_pb2.Claim(voucher=voucher))
        assert outcome.error_code == VoucherError.code()


async def test_forged_receipts_are_left_out_of_the_statement(open_hive):
    async with open_hive() as hive:
        anna, bert = await hive.member("anna"), await hive.member("bert")
        payment = await _work(anna, bert, "w", 10, what="the truth")
        payment.receipt.countersignature = b"\x00" * 64
        await _settle(bert, hive.info.peer_id, credits_pb2.Claim(voucher=payment.voucher, receipts=[payment.receipt]))
        row = (await anna.accounts.statement())[0]
        assert (row.what, row.amount) == ("work", -10)


async def test_an_id_of_a_hold_cannot_be_taken_over(open_hive):
    async with open_hive() as hive:
        anna, bert, carl = await hive.member("anna"), await hive.member("bert"), await hive.member("carl")
        payment = await _work(anna, bert, "w", 10)
        hold_id = open_voucher(payment.voucher).hold_id
        for thief, payee, amount in ((carl, bert, 10), (anna, carl, 10), (anna, bert, 10**9)):
            request = credits_pb2.CreditsRequest(
                hold=credits_pb2.HoldRequest(hold_id=hold_id, payee=payee.peer_id, amount=amount)
            )
            with pytest.raises(VoucherError, match="another one"):
                await ask(thief.network, hive.info.peer_id, CREDITS_PROTOCOL, request, credits_pb2.CreditsAnswer)


@pytest.mark.parametrize(
    "wrong",
    [{"amount": 0}, {"amount": 2**63}, {"hold_id": "x"}, {"payee": "nobody"}, {"payee": "1" * 5000}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_malformed_holds_are_refused(open_hive, wrong):
    async with open_hive() as hive:
        anna = await hive.member("anna")
        fields = {"hold_id": "ab" * 16, "payee": anna.peer_id, "amount": 5} | wrong
        request = credits_pb2.CreditsRequest(hold=credits_pb2.HoldRequest(**fields))
        with pytest.raises(VoucherError):
            await ask(anna.network, hive.info.peer_id, CREDITS_PROTOCOL, request, credits_pb2.CreditsAnswer)
        assert (await anna.accounts.balance()).available == WELCOME_CREDITS
