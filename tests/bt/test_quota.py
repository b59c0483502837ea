import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.bitfield import Bitfield
from hivemind_p2p.bt.piece_map import CELLS, FULL, PieceMap
from hivemind_p2p.bt.quota import RECENTLY, Kept, to_drop
from hivemind_p2p.errors import QuotaError

NOW = 1e9

contents = st.lists(
    st.builds(
        Kept,
        st.binary(min_size=2, max_size=2),
        st.integers(0, 100),
        st.floats(NOW - 1000, NOW),
        pinned=st.booleans(),
        in_use=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda content: content.infohash,
)


@given(kept=contents, more=st.integers(0, 200), quota=st.integers(1, 400), wanted=st.binary(min_size=2, max_size=2))
def test_enough_goes_and_never_what_must_stay(kept, more, quota, wanted):
    used = sum(content.size for content in kept)
    free = {
        content.infohash: content
        for content in kept
        if not (content.pinned or content.in_use or content.infohash == wanted or NOW - content.used_at < RECENTLY)
    }
    try:
        dropped = to_drop(kept, wanted=wanted, more=more, quota=quota, now=NOW)
    except QuotaError:
        assert used + more - sum(content.size for content in free.values()) > quota
        return
    assert set(dropped) <= set(free)
    assert len(set(dropped)) == len(dropped)
    times = [free[infohash].used_at for infohash in dropped]
    assert times == sorted(times)
    left = used - sum(free[infohash].size for infohash in dropped) + more
    assert not more or left <= quota
    if dropped:
        assert left + free[dropped[-1]].size > quota, "the last one had to go as well"
        oldest_kept = [
            content.used_at for infohash, content in free.items() if infohash not in dropped and content.size
        ]
        assert not oldest_kept or times[-1] <= min(oldest_kept)


def test_without_a_quota_nothing_goes():
    assert to_drop([Kept(b"a", 10**15, 0.0)], wanted=b"b", more=10**15, quota=0, now=NOW) == []


def test_what_cannot_fit_drops_nothing_and_says_how_much():
    with pytest.raises(QuotaError, match=r"20\.0 MiB more .* 16\.0 MiB .* 4\.0 MiB"):
        to_drop([Kept(b"a", 2**20, 0.0)], wanted=b"b", more=20 * 2**20, quota=16 * 2**20, now=NOW)


@given(wanted=st.sets(st.integers(0, 499), max_size=300), held=st.sets(st.integers(0, 499)))
def test_a_map_is_full_where_all_pieces_are_there_and_only_there(wanted, held):
    ordered = sorted(wanted)
    shown = PieceMap(ordered, Bitfield(500, held))
    assert len(shown.to_bytes()) == min(CELLS, len(wanted))
    before = list(shown.to_bytes())
    for piece in wanted - held:
        shown.add(piece)
    for piece in held - wanted:
        shown.add(piece)
    assert set(shown.to_bytes()) <= {FULL}
    assert (set(before) <= {FULL}) == (wanted <= held)
