"""What accounts complain of: who may, what counts, and what is told."""

from __future__ import annotations

import pytest

from hivemind_bootstrap import reputation
from hivemind_bootstrap.reputation import LASTS
from hivemind_p2p.credits.requests import ask
from hivemind_p2p.credits.wire import ACCOUNTS_PROTOCOL
from hivemind_p2p.errors import AccountRequiredError, BusyError, ProtocolError
from hivemind_p2p.proto import accounts_pb2


async def dealing(hive, payer, worker):
    await payer.purse.authorise(worker.peer_id, 1000)


async def asked(hive, about):
    """What somebody hears who has asked nobody before."""
    return await hive.join().accounts.complaints_about([each.peer_id for each in about])


async def test_accounts_that_had_dealings_are_heard_each_once(open_hive):
    async with open_hive() as hive:
        anna, bert, eve = [await hive.member(name) for name in ("anna", "bert", "eve")]
        second = hive.join()
        await second.accounts.login("eve", "correct horse")
        for accuser in (anna, bert):
            await dealing(hive, accuser, eve)
        assert await asked(hive, [eve, anna]) == {}
        for task in ("t1", "t1", "t2"):
            await anna.accounts.complain(eve.peer_id, task)
        assert await asked(hive, [eve, second, anna, bert]) == {eve.peer_id: 1, second.peer_id: 1}
        await bert.accounts.complain(eve.peer_id, "t1")
        assert await asked(hive, [eve]) == {eve.peer_id: 2}
        hive.ahead += LASTS + 1
        assert await asked(hive, [eve]) == {}


async def test_who_had_no_dealings_with_a_peer_or_is_its_owner_or_nobody_is_not_heard(open_hive):
    async with open_hive() as hive:
        anna, eve = [await hive.member(name) for name in ("anna", "eve")]
        own, stranger = hive.join(), hive.join()
        await own.accounts.login("anna", "correct horse")
        with pytest.raises(ProtocolError, match="had no dealings"):
            await anna.accounts.complain(eve.peer_id, "t")
        await dealing(hive, anna, own)
        with pytest.raises(ProtocolError, match="had no dealings"):
            await anna.accounts.complain(own.peer_id, "t")
        for accuser, accused in ((stranger, eve), (anna, stranger)):
            with pytest.raises(AccountRequiredError):
                await accuser.accounts.complain(accused.peer_id, "t")
        assert await asked(hive, [anna, own, eve]) == {}


@pytest.mark.parametrize("task_id", ["", "x" * 65, "a\nb"])
async def test_malformed_complaints_are_refused(open_hive, task_id):
    async with open_hive() as hive:
        anna, eve = [await hive.member(name) for name in ("anna", "eve")]
        await dealing(hive, anna, eve)
        with pytest.raises(ProtocolError):
            await anna.accounts.complain(eve.peer_id, task_id)


async def test_nobody_complains_without_end(open_hive, monkeypatch):
    monkeypatch.setattr(reputation, "MOST_A_DAY", 2)
    async with open_hive() as hive:
        anna, eve = [await hive.member(name) for name in ("anna", "eve")]
        await dealing(hive, anna, eve)
        for task in ("t1", "t2", "t2"):
            await anna.accounts.complain(eve.peer_id, task)
        with pytest.raises(BusyError, match="2 times today"):
            await anna.accounts.complain(eve.peer_id, "t3")
        hive.ahead += reputation.DAY + 1
        await anna.accounts.complain(eve.peer_id, "t3")


async def test_one_request_asks_about_so_many_only(open_hive):
    async with open_hive() as hive:
        request = accounts_pb2.AccountsRequest(complaints_about=accounts_pb2.Peers(peers=["x"] * 1001))
        with pytest.raises(ProtocolError, match="1001 peers"):
            await ask(
                hive.join().network, hive.identity.peer_id, ACCOUNTS_PROTOCOL, request, accounts_pb2.AccountsAnswer
            )
