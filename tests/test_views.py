"""What a hive tells people: exact amounts, peers in order, text for terminals."""

from dataclasses import dataclass
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.types import CREDIT, LayerSpan, Link, Offer, PeerId, PeerInfo, StageOffer
from hivemind_p2p.views import Balance, Ledger, LedgerRow, PeerList, Statement, in_credits, peer_rows, stages_text

ADA, BOB = PeerId("12D3KooWAdaaaaaa"), PeerId("12D3KooWBobbbbbb")
LINK = Link("magnet:?xt=urn:btmh:1220" + "ab" * 32)


@given(st.integers(-(10**18), 10**18))
def test_amounts_are_exact(amount):
    assert in_credits(amount) * CREDIT == amount


def test_peers_in_the_order_of_their_names():
    offers = [Offer(PeerInfo(BOB), name="bob"), Offer(PeerInfo(ADA), name="ada", cpus=2.0, memory_bytes=2**30)]
    rows = peer_rows(offers, BOB)
    assert [(row.name, row.is_me) for row in rows] == [("ada", False), ("bob", True)]
    assert peer_rows([Offer(PeerInfo(ADA))], BOB)[0].name == ADA[-6:]
    text = repr(PeerList(rows))
    assert text.startswith("2 peers\n  ada ")
    assert "2 cpus  1.0 GiB" in text
    assert repr(PeerList(rows[:1])).startswith("1 peer\n")
    assert repr(PeerList()) == "0 peers"


def test_stages_in_a_few_words():
    stages = [StageOffer(LINK, LayerSpan(0, 2), ready=True), StageOffer(LINK, LayerSpan(4, 6), ready=False)]
    assert stages_text(stages) == "layers 0-1, 4-5 (loading)"
    assert stages_text([]) == ""


@dataclass
class Amounts:
    available: int
    held: int


def test_a_balance():
    balance = Balance.of(Amounts(72_000_000, 27_998_470))
    assert balance == Balance(Decimal(72), Decimal("27.998470"))
    assert str(balance) == "72.000000 credits available, 27.998470 held"


@dataclass
class Row:
    time: float
    what: str
    amount: int
    counterparty: str


def test_a_statement():
    statement = Statement.of([Row(1_700_000_000.0, "2 x function/1", -210, "peer-1")])
    (row,) = statement
    assert (row.amount, row.counterparty, row.time.tzinfo is not None) == (Decimal("-0.000210"), "peer-1", True)
    assert repr(statement) == "2023-11-14 22:13:20       -0.000210  2 x function/1  peer-1"
    assert repr(Statement()) == "no rows yet"


def test_a_ledger():
    ledger = Ledger(
        [LedgerRow("ada", Decimal(100), Decimal("0.5"), Decimal(1), Decimal("99.5"))], total=Decimal(0), transfers=3
    )
    text = repr(ledger)
    assert "ada" in text
    assert "99.500000" in text
    assert text.endswith("sum of all rows: 0")
