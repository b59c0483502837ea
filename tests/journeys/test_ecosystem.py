"""Other libraries on real peers: joblib, scikit-learn, Dask, the standard library's executor; values that many use."""

import concurrent.futures
import os
import time

import joblib
import numpy
import pytest
from dask import array as dask_array
from dask import bag as dask_bag
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import hivemind_p2p as hm
from hivemind_p2p.errors import TaskFailedError
from tests.journeys.programs import until

DEADLINE = 120.0

pytestmark = pytest.mark.timeout(300)


def square(number):
    return number * number


def fail(number):
    raise KeyError(number)


def total(array, factor):
    return float(array.sum()) * factor


@pytest.fixture(autouse=True)
def registered(hive):
    hm.register_joblib()


def test_a_grid_search_finds_what_it_finds_here(hive):
    features, labels = make_classification(400, 10, random_state=0)

    def search():
        grid = {"C": [0.01, 1.0], "fit_intercept": [True, False]}
        return GridSearchCV(LogisticRegression(), grid, cv=2).fit(features, labels)

    here = search()
    with joblib.parallel_backend("hivemind"):
        there = search()
    assert there.best_params_ == here.best_params_
    numpy.testing.assert_allclose(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])


def test_joblib_calls_and_errors(hive):
    with joblib.parallel_config(backend="hivemind"):
        assert joblib.Parallel()(joblib.delayed(square)(number) for number in range(500)) == [n * n for n in range(500)]
        with pytest.raises(KeyError):
            joblib.Parallel()(joblib.delayed(fail)(number) for number in range(5))


def test_an_array_that_joblib_calls_share_leaves_once_for_each_peer(hive):
    array = numpy.ones(1 << 20)
    before = hive.statistics()["content"].uploaded_bytes
    with joblib.parallel_backend("hivemind"):
        found = joblib.Parallel()(joblib.delayed(total)(array, factor) for factor in range(8))
    assert found == [float(1 << 20) * factor for factor in range(8)]
    sent = hive.statistics()["content"].uploaded_bytes - before
    assert array.nbytes <= sent <= 3.5 * array.nbytes


def test_dask_computes_on_peers(hive):
    numbers = dask_array.arange(100_000, chunks=25_000)
    assert (numbers**2).sum().compute(scheduler=hive.dask) == int((numpy.arange(100_000) ** 2).sum())
    words = dask_bag.from_sequence(["a", "b", "a"] * 10, npartitions=3)
    assert dict(words.frequencies().compute(scheduler=hive.dask)) == {"a": 20, "b": 10}


def test_an_executor_of_the_hive(hive):
    with hive.executor() as executor:
        assert list(executor.map(pow, [2, 3], [10, 10])) == [1024, 59049]
        futures = [executor.submit(square, number) for number in range(10)]
        found = {future.result() for future in concurrent.futures.as_completed(futures, timeout=DEADLINE)}
        assert found == {number * number for number in range(10)}


def test_a_value_is_fetched_once_by_each_peer(hive):
    value = os.urandom(3_000_000)
    before = hive.statistics()["content"].uploaded_bytes
    reference = hive.put(value)
    jobs = [hive.submit(len, reference) for _ in range(12)]
    assert [job.result(DEADLINE) for job in jobs] == [len(value)] * 12
    peers = len({job.peer for job in jobs})
    sent = hive.statistics()["content"].uploaded_bytes - before
    assert len(value) <= sent <= (peers + 0.5) * len(value)


def chat(count):
    for number in range(count):
        print("line", number, flush=True)
        time.sleep(0.05)
    return count


def test_output_is_read_while_it_runs_and_kept_when_it_is_cancelled(hive):
    job = hive.submit(chat, 3)
    assert list(job.stdout) == ["line 0\n", "line 1\n", "line 2\n"]
    assert [change.state for change in job.history] == ["QUEUED", "ASSIGNED", "RUNNING", "COMPLETED"]
    endless = hive.submit(chat, 10_000)
    until(lambda: "line 3\n" in endless.output, "it has printed something")
    endless.cancel()
    assert endless.output.startswith("line 0\nline 1\n")
    assert endless.history[-1].state == "CANCELLED"


def test_peers_of_different_accounts_agree(hive):
    job = hive.with_options(verify=hm.Quorum(2, of=3)).submit(square, 12)
    assert job.result(DEADLINE) == 144
    assert len({answer.account for answer in job.verdict.majority}) == 2


def test_a_map_over_very_many_items(hive):
    assert hive.map(square, range(20_000)).results(DEADLINE) == [number * number for number in range(20_000)]
    with pytest.raises(TaskFailedError):
        hive.map(fail, range(1000)).results(DEADLINE)
