"""Dask's graphs step by step, each packed, run, encoded and decoded as it would be on a peer."""

from concurrent.futures import Future

import dask
import dask.bag
import pytest

from hivemind_p2p.ecosystem import dask_scheduler
from hivemind_p2p.ecosystem.dask_scheduler import made_plain
from hivemind_p2p.errors import TaskFailedError
from hivemind_p2p.tasks import values
from hivemind_p2p.tasks.library.function import FunctionTask, pack
from hivemind_p2p.tasks.reading import decode


class Tasks:
    """Runs what is submitted at once."""

    def submit(self, function, /, *args, **kwargs):
        ended = Future()
        try:
            result = FunctionTask().run(memoryview(pack(function, args, kwargs)))
            ended.set_result(decode(values.encode(result)))
        except Exception as error:
            ended.set_exception(error)
        return ended


def computed(collection):
    def schedule(graph, keys, **options):
        return dask_scheduler.get(Tasks(), 2, graph, keys, chunksize=options.get("chunksize", 1))

    return dask.compute(collection, scheduler=schedule)[0]


@pytest.fixture
def numbers():
    return dask.bag.from_sequence(range(20), npartitions=4)


def test_groups_of_a_bag_are_made_with_tasks(numbers):
    groups = computed(numbers.groupby(lambda number: number % 3, shuffle="tasks"))
    assert {key: sorted(group) for key, group in groups} == {key: list(range(key, 20, 3)) for key in range(3)}


def test_what_is_shuffled_over_a_disk_says_what_to_do(numbers):
    with pytest.raises(TaskFailedError, match="shuffle='tasks'"):
        computed(numbers.groupby(lambda number: number % 3, shuffle="disk"))


@pytest.mark.parametrize(
    ("make", "result"),
    [
        (lambda bag: bag.map(lambda number: number + 1).filter(lambda number: number > 18), [19, 20]),
        (lambda bag: bag.foldby(lambda number: number % 2, lambda a, b: a + b, 0), [(0, 90), (1, 100)]),
        (lambda bag: bag.topk(2), [19, 18]),
        (lambda bag: bag.mean(), 9.5),
        (lambda bag: bag.map(lambda number: {"a": number}).pluck("a").sum(), 190),
    ],
)
def test_other_steps_of_bags(numbers, make, result):
    assert computed(make(numbers)) == result


def test_iterators_become_lists_and_all_else_stays():
    assert made_plain((map(abs, [-1, 2]), 7)) == ([1, 2], 7)
    assert made_plain(([iter([1]), 5], 7)) == ([[1], 5], 7)
    assert made_plain(({"a": iter([1])}, 7)) == ({"a": [1]}, 7)
    value = {"a": [1, (2, 3)]}
    assert made_plain((value, 7))[0] is value
