"""Orders survive the command line; limits fit the wall."""

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.worker import limits
from hivemind_p2p.worker.wall_in import Orders

PATHS = st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))).map(tuple)


@given(
    st.builds(
        Orders,
        wall=st.sampled_from(["bubblewrap", "landlock", "none"]),
        uid=st.integers(0, 1 << 31),
        parent=st.integers(0, 1 << 22),
        network=st.booleans(),
        landlock=st.integers(0, 9),
        filtered=st.booleans(),
        groups=st.lists(st.integers(0, 1 << 31)).map(tuple),
        devices=PATHS,
        readable=PATHS,
        writable=PATHS,
    )
)
def test_orders_come_out_as_they_went_in(orders):
    assert Orders.from_text(orders.to_text()) == orders


def test_a_folder_cannot_smuggle_an_order_in():
    with pytest.raises(ValueError, match="line break"):
        Orders("landlock", readable=("/usr\nwrite=/",)).to_text()


def test_processes_are_limited_only_where_they_are_counted_for_the_child_alone():
    def limited(**how):
        return resource.RLIMIT_NPROC in limits.at_start(**how)

    assert limited(own_user=True, own_namespace=False, kernel=(4, 19))
    assert limited(own_user=False, own_namespace=True, kernel=(5, 14))
    assert not limited(own_user=False, own_namespace=True, kernel=(5, 13))
    assert not limited(own_user=False, own_namespace=False, kernel=(6, 18))


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-13-amd64", (6, 1)), ("5.14-rc3", (5, 14)), ("6.18.44-x", (6, 18)), ("7", (7, 0)), ("odd", (0, 0))],
)
def test_the_version_of_a_kernel(release, version):
    assert limits.version_of(release) == version
