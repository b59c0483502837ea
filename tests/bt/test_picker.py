from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.picker import PiecePicker

PIECES = 12


def test_the_rarest_piece_comes_first():
    picker = PiecePicker(4, [0, 1, 2, 3])
    first, second = Bitfield(4, [0, 1, 2]), Bitfield(4, [0, 2, 3])
    picker.joined(first)
    picker.joined(second)
    assert picker.pick(first, 1) == [1]
    assert picker.pick(second, 1) == [3]
    assert picker.pick(second, 9) == [0, 2]
    assert picker.pick(first, 9) == []
    assert picker.taken == 4


def test_equally_rare_pieces_come_in_the_given_order():
    everything = Bitfield.full(4)
    for order in ([2, 0, 3, 1], [1, 3, 0, 2]):
        picker = PiecePicker(4, order)
        picker.joined(everything)
        assert picker.pick(everything, 4) == order


def test_only_wanted_pieces_are_picked():
    picker = PiecePicker(10, [7, 3])
    assert picker.pick(Bitfield.full(10), 9) == [7, 3]
    assert not picker.wants_from(Bitfield(10, [0, 1]))
    assert picker.wants_from(Bitfield(10, [3]))


class PickerMachine(RuleBasedStateMachine):
    """Against a model that counts everything anew."""

    @initialize(order=st.permutations(range(PIECES)), count=st.integers(0, PIECES))
    def start(self, order, count):
        self.missing = list(order[:count])
        self.picker = PiecePicker(PIECES, self.missing)
        self.sources: dict[int, Bitfield] = {}
        self.taken: set[int] = set()
        self.next = 0

    @rule(held=st.sets(st.integers(0, PIECES - 1)) | st.just(set(range(PIECES))))
    def join(self, held):
        self.sources[self.next] = Bitfield(PIECES, held)
        self.picker.joined(self.sources[self.next])
        self.next += 1

    @precondition(lambda self: self.sources)
    @rule(data=st.data())
    def leave(self, data):
        self.picker.left(self.sources.pop(data.draw(st.sampled_from(sorted(self.sources)))))

    @precondition(lambda self: self.sources)
    @rule(data=st.data(), piece=st.integers(0, PIECES - 1), gain=st.booleans())
    def change(self, data, piece, gain):
        held = self.sources[data.draw(st.sampled_from(sorted(self.sources)))]
        if gain and held.add(piece):
            self.picker.gained(held, piece)
        elif not gain and held.discard(piece):
            self.picker.lost(held, piece)

    @precondition(lambda self: self.sources)
    @rule(data=st.data(), count=st.integers(0, 4))
    def pick(self, data, count):
        held = self.sources[data.draw(st.sampled_from(sorted(self.sources)))]
        rarity = {piece: self.rarity(piece) for piece in self.missing}
        could = [piece for piece in self.missing if piece in held and piece not in self.taken]
        picked = self.picker.pick(held, count)
        assert len(set(picked)) == len(picked) == min(count, len(could))
        assert set(picked) <= set(could)
        left = [rarity[piece] for piece in could if piece not in picked]
        assert all(rarity[piece] <= min(left, default=PIECES) for piece in picked)
        self.taken.update(picked)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), arrived=st.booleans())
    def finish(self, data, arrived):
        piece = data.draw(st.sampled_from(sorted(self.taken)))
        self.taken.discard(piece)
        if arrived:
            self.missing.remove(piece)
            self.picker.stored(piece)
        else:
            self.picker.put_back([piece])

    def rarity(self, piece):
        return sum(piece in held for held in self.sources.values() if not held.complete)

    @invariant()
    def counts_agree(self):
        assert self.picker.missing == len(self.missing)
        assert self.picker.taken == len(self.taken)


TestPicker = PickerMachine.TestCase
TestPicker.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
