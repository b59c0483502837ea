from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.download import ENDGAME_AFTER, SNUB, Ban, Cancel, Done, Download, Drop, Request
from hivemind_p2p.bt.request_window import MOST_BYTES
from hivemind_p2p.types import PeerId

A, B = PeerId("a"), PeerId("b")
KIB = 1024


def download(pieces=8, missing=None, piece_length=16 * KIB, patience=10.0, **options):
    missing = list(range(pieces)) if missing is None else missing
    return Download(
        pieces,
        missing,
        piece_length=piece_length,
        length_of=lambda piece: piece_length,
        patience=patience,
        now=0.0,
        random_first=0,
        **options,
    )


def test_a_source_is_asked_for_a_few_pieces_and_then_for_more():
    machine = download(pieces=20)
    assert machine.source_joined(A, Bitfield.full(20), 0.0) == [Request(A, (0, 1, 2, 3))]
    actions = machine.piece_arrived(A, 0, 0.1)
    assert actions == [Request(A, (4,))]
    arrived = [action.pieces for piece in (1, 2, 3) for action in machine.piece_arrived(A, piece, 0.1)]
    assert sum(map(len, arrived)) > 3, "four came in the time of one: the way holds more"
    assert machine.expects(A, 4)
    assert not machine.expects(A, 0)


def test_the_window_is_bounded_by_bytes():
    machine = download(pieces=100, piece_length=4 * KIB * KIB)
    (first,) = machine.source_joined(A, Bitfield.full(100), 0.0)
    asked = set(first.pieces)
    for step in range(50):
        piece = min(asked)
        asked.discard(piece)
        for action in machine.piece_arrived(A, piece, step):
            asked.update(action.pieces)
    assert len(asked) * 4 * KIB * KIB <= MOST_BYTES


def test_two_sources_share_the_work():
    machine = download()
    first = machine.source_joined(A, Bitfield.full(8), 0.0)
    second = machine.source_joined(B, Bitfield.full(8), 0.0)
    assert first == [Request(A, (0, 1, 2, 3))]
    assert second == [Request(B, (4, 5, 6, 7))]


def test_done_comes_when_the_last_wanted_piece_is_stored():
    machine = download(missing=[5, 2])
    assert machine.source_joined(A, Bitfield.full(8), 0.0) == [Request(A, (5, 2))]
    machine.piece_arrived(A, 5, 1.0)
    assert machine.piece_stored(5, 1.0) == []
    machine.piece_arrived(A, 2, 1.0)
    assert machine.missing == 1
    assert machine.piece_stored(2, 1.0) == [Done()]


def test_a_source_that_sent_a_wrong_piece_is_banned_and_its_pieces_go_to_another():
    machine = download(pieces=4)
    machine.source_joined(A, Bitfield.full(4), 0.0)
    assert machine.source_joined(B, Bitfield.full(4), 0.0) == []
    machine.piece_arrived(A, 1, 1.0)
    ban, request = machine.piece_corrupt(A, 1, 1.0)
    assert isinstance(ban, Ban)
    assert ban.source == A
    assert isinstance(request, Request)
    assert request.source == B
    assert set(request.pieces) == {0, 1, 2, 3}
    assert machine.sources == (B,)
    assert machine.source_joined(A, Bitfield.full(4), 2.0) == [Drop(A, "it is banned")]


def test_a_wrong_piece_of_a_source_that_left_is_asked_of_another():
    machine = download(pieces=1)
    machine.source_joined(A, Bitfield.full(1), 0.0)
    machine.source_joined(B, Bitfield.full(1), 0.0)
    machine.piece_arrived(A, 0, 1.0)
    assert machine.source_left(A, 1.0) == []
    assert Request(B, (0,)) in machine.piece_corrupt(A, 0, 2.0)


def test_a_piece_that_was_not_asked_for_costs_the_source():
    machine = download()
    machine.source_joined(A, Bitfield.full(8), 0.0)
    (drop,) = machine.piece_arrived(A, 7, 1.0)
    assert isinstance(drop, Drop)
    assert machine.sources == ()


def test_the_pieces_of_a_silent_source_go_to_another_and_then_it_is_left():
    machine = download(pieces=4)
    machine.source_joined(A, Bitfield.full(4), 0.0)
    machine.source_joined(B, Bitfield.full(4), 1.0)
    assert machine.tick(0.5) == []
    cancel, request, late = machine.tick(10.0)
    assert cancel == Cancel(A, (0, 1, 2))
    assert request == Request(B, (0, 1, 2))
    assert late == Request(B, (3,)), "there is nothing else to ask for"
    assert machine.snubs(A)
    drop = machine.tick(20.0)[0]
    assert isinstance(drop, Drop)
    assert "20 seconds with 1 pieces" in drop.reason


def test_a_silent_source_that_sends_again_is_asked_again():
    machine = download(pieces=8)
    machine.source_joined(A, Bitfield.full(8), 0.0)
    machine.tick(10.0)
    assert machine.snubs(A)
    actions = machine.piece_arrived(A, 3, 11.0)
    assert not machine.snubs(A)
    assert isinstance(actions[0], Request)
    assert machine.piece_arrived(A, 99, 12.0) != []


def test_what_comes_late_is_taken_where_it_is_still_missing_and_is_no_offence_where_not():
    machine = download(pieces=4)
    machine.source_joined(A, Bitfield.full(4), 0.0)
    machine.tick(10.0)
    machine.source_joined(B, Bitfield.full(4), 10.0)
    assert machine.expects(A, 0)
    assert machine.piece_arrived(A, 0, 11.0) == [Cancel(B, (0,))]
    assert machine.expects(B, 0) is machine.expects(A, 0) is False
    machine.piece_stored(0, 11.0)
    machine.piece_arrived(B, 1, 12.0)
    assert not machine.expects(A, 1)
    assert machine.piece_arrived(A, 1, 12.0) == []
    assert machine.sources == (A, B)


def test_at_the_end_a_late_piece_is_asked_of_another_and_cancelled_where_it_is_not_needed():
    machine = download(pieces=2)
    machine.source_joined(A, Bitfield.full(2), 0.0)
    machine.source_joined(B, Bitfield.full(2), 0.0)
    assert machine.tick(ENDGAME_AFTER - 0.1) == []
    assert machine.tick(ENDGAME_AFTER) == [Request(B, (0, 1))]
    assert machine.tick(ENDGAME_AFTER * 2) == [], "two are enough"
    assert machine.piece_arrived(B, 1, 3.0) == [Cancel(A, (1,))]
    assert machine.piece_arrived(A, 1, 3.1) == []
    machine.source_left(A, 3.2)
    machine.piece_arrived(B, 0, 3.3)
    machine.piece_stored(0, 3.4)
    assert machine.piece_stored(1, 3.4) == [Done()]


def test_while_there_is_something_else_to_ask_for_nothing_is_asked_twice():
    machine = download(pieces=20)
    machine.source_joined(A, Bitfield.full(20), 0.0)
    machine.source_joined(B, Bitfield.full(20), 0.0)
    assert machine.tick(5.0) == []


def test_a_choking_source_is_asked_for_nothing_and_keeps_what_it_refuses():
    machine = download(pieces=4)
    assert machine.source_joined(A, Bitfield.full(4), 0.0, choking=True) == []
    assert machine.source_chokes(A, False, 1.0) == [Request(A, (0, 1, 2, 3))]
    assert machine.source_chokes(A, True, 2.0) == []
    for piece in range(4):
        assert machine.piece_refused(A, piece, 2.1) == []
    assert machine.source_chokes(A, False, 3.0) == [Request(A, (0, 1, 2, 3))]


def test_what_is_urgent_comes_first_in_its_order():
    machine = download(pieces=20, urgent=(7, 9, 8))
    assert machine.source_joined(A, Bitfield.full(20), 0.0) == [Request(A, (7, 9, 8, 0))]
    machine.piece_arrived(A, 7, 1.0)
    assert machine.hurry([15, 14], 1.0) == []
    assert machine.piece_arrived(A, 9, 1.0)[0].pieces[0] == 15


def test_each_piece_gives_a_source_new_time():
    machine = download(pieces=4)
    machine.source_joined(A, Bitfield.full(4), 0.0)
    machine.piece_arrived(A, 0, 8.0)
    assert machine.tick(17.9) == []
    assert machine.tick(18.0) == [Cancel(A, (1, 2))]
    machine.piece_arrived(A, 3, 19.0)
    assert machine.tick(28.9) == []


def test_a_refused_piece_is_asked_of_another_and_not_of_the_same_again():
    machine = download(pieces=1)
    machine.source_joined(A, Bitfield.full(1), 0.0)
    machine.source_joined(B, Bitfield.full(1), 0.0)
    assert machine.piece_refused(A, 0, 1.0) == [Request(B, (0,))]
    assert machine.piece_refused(B, 0, 1.0) == []
    assert machine.source_has(A, [0], 2.0) == [Request(A, (0,))]


def test_a_source_that_tells_of_a_piece_and_refuses_it_in_turns_is_left():
    machine = download(pieces=2)
    machine.source_joined(A, Bitfield(2, [0]), 0.0)
    for _ in range(2):
        assert machine.piece_refused(A, 0, 1.0) == []
        assert machine.source_has(A, [0], 1.0) == [Request(A, (0,))]
    assert isinstance(machine.piece_refused(A, 0, 1.0)[0], Drop)
    assert machine.sources == ()


def test_new_pieces_of_a_source_are_asked_for_and_nonsense_is_left_out():
    machine = download(pieces=4)
    assert machine.source_joined(A, Bitfield(4), 0.0) == []
    assert machine.source_has(A, [2, 2, 99, -1], 1.0) == [Request(A, (2,))]
    assert machine.source_has(B, [1], 1.0) == []


def test_stalled_is_when_nothing_is_on_its_way():
    machine = download(pieces=2)
    assert machine.stalled_for(3.0) == 3.0
    machine.source_joined(A, Bitfield(2, [0]), 3.0)
    assert machine.stalled_for(9.0) == 0.0
    machine.piece_arrived(A, 0, 9.0)
    assert machine.stalled_for(9.5) == 0.0
    machine.piece_stored(0, 10.0)
    assert machine.stalled_for(14.0) == 4.0


class Crowd:
    """Sources that answer as they are told, around a machine whose actions are performed on the spot."""

    def __init__(self, machine, pieces):
        self.machine = machine
        self.pieces = pieces
        self.asked: dict[PeerId, list[int]] = {}
        self.stored: set[int] = set()
        self.finished = False
        self.now = 0.0

    def join(self, peer):
        self.asked.setdefault(peer, [])
        self.perform(self.machine.source_joined(peer, Bitfield.full(self.pieces), self.now))

    def perform(self, actions):
        for action in actions:
            match action:
                case Request(source, wanted):
                    assert not set(wanted) & self.stored
                    assert not set(wanted) & set(self.asked[source])
                    self.asked[source].extend(wanted)
                case Cancel(source, pieces):
                    self.asked[source] = [piece for piece in self.asked[source] if piece not in pieces]
                case Drop(source) | Ban(source):
                    self.asked[source].clear()
                case Done():
                    self.finished = True

    def step(self, peer, what):
        self.now += 1.0
        if what == "silence":
            self.now += self.machine.patience * SNUB
            self.perform(self.machine.tick(self.now))
            self.perform(self.machine.tick(self.now))
        elif what == "leave":
            self.asked[peer].clear()
            self.perform(self.machine.source_left(peer, self.now))
        else:
            self.answer(peer, self.asked[peer].pop(0), what)

    def answer(self, peer, piece, what):
        if what == "refuse":
            self.perform(self.machine.piece_refused(peer, piece, self.now))
            return
        self.perform(self.machine.piece_arrived(peer, piece, self.now))
        if what == "lie":
            self.perform(self.machine.piece_corrupt(peer, piece, self.now))
            return
        self.stored.add(piece)
        self.perform(self.machine.piece_stored(piece, self.now))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_with_one_honest_source_any_mix_of_others_ends_complete(data):
    """Sources lie, leave, refuse and stay silent in any order; the honest one brings it to the end."""
    pieces = data.draw(st.integers(1, 12))
    machine = download(pieces=pieces, missing=data.draw(st.permutations(range(pieces))))
    crowd = Crowd(machine, pieces)
    honest = PeerId("honest")
    for peer in [PeerId(f"rogue{number}") for number in range(data.draw(st.integers(0, 3)))] + [honest]:
        crowd.join(peer)
    while not crowd.finished:
        busy = [peer for peer in crowd.asked if crowd.asked[peer]]
        assert busy, "nothing is on its way and it is not done"
        peer = data.draw(st.sampled_from(busy))
        rogue = st.sampled_from(["send", "lie", "refuse", "leave", "silence"])
        crowd.step(peer, "send" if peer == honest else data.draw(rogue))
        if honest not in machine.sources:
            crowd.join(honest)
    assert crowd.stored == set(range(pieces))
