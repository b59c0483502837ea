"""multistream-select: both sides of it against each other, against its text form, and against garbage."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import NotSpokenError, ProtocolError
from hivemind_p2p.net.negotiation import HEADER, MAX_LINE, MOST_PROPOSALS, Chooser, Lines, Proposer, encode

ECHO = "/hivemind/echo/1"


def chooser() -> Chooser:
    return Chooser(lambda protocol: protocol == ECHO)


def test_the_bytes_are_those_of_the_specification():
    assert encode(HEADER, "na") == b"\x13/multistream/1.0.0\n\x03na\n"


def test_a_long_line_has_a_length_of_two_bytes():
    assert encode("/" + "a" * 198)[:2] == b"\xc8\x01"


def test_a_line_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="over 1024"):
        encode("a" * MAX_LINE)


def test_both_agree_in_one_round_trip():
    proposer, other = Proposer(ECHO), chooser()

    answer = other.receive(proposer.start())

    assert other.chosen == ECHO
    assert answer == encode(HEADER, ECHO)
    assert proposer.receive(answer) == b""


@given(st.binary(max_size=64), st.binary(max_size=64), st.data())
def test_what_comes_behind_the_negotiation_is_kept_whatever_the_chunks(there, back, data):
    proposer, other = Proposer(ECHO), chooser()
    said = proposer.start() + there
    answers = b""
    for chunk in _cut(said, data):
        if other.chosen is None:
            answers += other.receive(chunk)
            rest = bytearray(other.rest()) if other.chosen else bytearray()
        else:
            rest += chunk
    assert bytes(rest) == there

    heard, agreed = answers + back, None
    for chunk in _cut(heard, data):
        if agreed is None:
            agreed = proposer.receive(chunk)
        else:
            agreed += chunk
    assert agreed == back


def _cut(whole, data):
    while whole:
        length = data.draw(st.integers(1, len(whole)))
        yield whole[:length]
        whole = whole[length:]


def test_a_side_that_waits_for_the_greeting_gets_it():
    other = chooser()

    assert other.receive(encode(HEADER)) == encode(HEADER)
    assert other.receive(encode("/something/else")) == encode("na")
    assert other.receive(encode(ECHO)) == encode(ECHO)
    assert other.chosen == ECHO


def test_a_protocol_that_is_not_spoken_is_told_from_nonsense():
    proposer = Proposer(ECHO)
    with pytest.raises(NotSpokenError, match="/hivemind/echo/1"):
        proposer.receive(encode(HEADER, "na"))
    with pytest.raises(ProtocolError, match="another name"):
        Proposer(ECHO).receive(encode(HEADER, "/something/else"))


def test_another_greeting_is_refused_by_both():
    with pytest.raises(ProtocolError, match="began with something else"):
        chooser().receive(encode("/multistream/2.0.0"))
    with pytest.raises(ProtocolError, match="began with something else"):
        Proposer(ECHO).receive(encode(ECHO))


def test_name_after_name_is_taken_for_a_flood():
    other = chooser()
    other.receive(encode(HEADER, *["/x"] * MOST_PROPOSALS))
    with pytest.raises(ProtocolError, match="over 16"):
        other.receive(encode("/x"))


@pytest.mark.parametrize(
    "garbage",
    [b"\x00", b"\x81\x10", b"\xff\xff\xff", b"\x02ab", b"\x03\xff\xfe\n"],
    ids=["empty", "long", "varint", "no end", "no text"],
)
def test_a_malformed_line_is_refused(garbage):
    lines = Lines()
    lines.feed(garbage)
    with pytest.raises(ProtocolError):
        lines.next()


def test_random_bytes_are_refused_or_waited_for():
    rng = random.Random(7)
    refused = 0
    for _ in range(10_000):
        mutated = bytearray(encode(HEADER, ECHO) + rng.randbytes(rng.randrange(8)))
        for _ in range(rng.randrange(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        for side in (chooser(), Proposer(ECHO)):
            try:
                side.receive(bytes(mutated))
            except ProtocolError:
                refused += 1
    assert refused > 1000
