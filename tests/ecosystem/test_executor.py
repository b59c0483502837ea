"""A hive's executor does what the standard library's executors do."""

import asyncio
import concurrent.futures
import gc
import operator
import threading
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError

import pytest

from hivemind_p2p.errors import NotSerializableError, TaskFailedError

DEADLINE = 20.0


@pytest.fixture
def executor(hive):
    with hive.executor() as executor:
        yield executor
        hive.gate.set()


def keywords(*args, self=None, fn=None, **kwargs):
    return [list(args), self, fn, kwargs]


def fail(number):
    raise ZeroDivisionError(f"number {number}")


def test_it_is_an_executor(executor):
    assert isinstance(executor, concurrent.futures.Executor)


def test_submitting(executor):
    assert executor.submit(pow, 2, 8).result(DEADLINE) == 256


def test_submitting_with_names_that_methods_have_too(executor):
    future = executor.submit(keywords, 1, self=2, fn=3, other=4)
    assert future.result(DEADLINE) == [[1], 2, 3, {"other": 4}]


def test_submitting_nothing(executor):
    with pytest.raises(TypeError):
        executor.submit()
    with pytest.raises(NotSerializableError):
        executor.submit(17)


def test_a_map_is_in_order_and_ends_with_the_shortest(executor):
    assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(executor.map(pow, range(10), [2] * 3, chunksize=3)) == [0, 1, 4]
    assert list(executor.map(abs, [])) == []


def test_a_map_starts_before_it_is_read(executor, hive):
    executor.map(abs, range(5))
    assert len(hive.launched) == 5


def test_a_map_over_very_many_items(executor):
    assert list(executor.map(operator.neg, range(2000))) == [-number for number in range(2000)]


def test_a_map_raises_where_the_function_did(executor):
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_map_that_takes_too_long_cancels_what_is_left(executor, hive):
    hive.gate.clear()
    results = executor.map(abs, range(5), timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    assert all(job.cancelled() for job, _, _ in hive.launched)


def test_a_map_that_is_left_early_cancels_the_rest(executor, hive):
    results = executor.map(abs, range(3))
    assert next(results) == 0
    hive.gate.clear()
    more = executor.map(abs, range(3, 6))
    del results
    more.close()  # not begun: nothing to cancel, as with the standard library's
    gc.collect()
    hive.gate.set()


def test_an_error_is_that_of_the_function_with_where_it_came_from(executor):
    future = executor.submit(fail, 7)
    with pytest.raises(ZeroDivisionError, match="number 7") as caught:
        future.result(DEADLINE)
    assert isinstance(caught.value, TaskFailedError)
    assert caught.value.remote_traceback
    assert isinstance(future.exception(), ZeroDivisionError)


def test_nothing_is_taken_after_shutdown(hive):
    executor = hive.executor()
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(pow, 2, 5)
    with pytest.raises(RuntimeError):
        executor.map(abs, [1])
    assert hive.submit(abs, -1).result(DEADLINE) == 1


def test_shutdown_waits_for_what_is_under_way(hive):
    executor = hive.executor()
    hive.gate.clear()
    futures = [executor.submit(abs, -number) for number in range(5)]
    threading.Timer(0.05, hive.gate.set).start()
    executor.shutdown()
    assert [future.done() for future in futures] == [True] * 5


def test_shutdown_without_waiting_lets_them_go_on(hive):
    executor = hive.executor()
    hive.gate.clear()
    futures = [executor.submit(abs, -number) for number in range(5)]
    executor.shutdown(wait=False)
    assert not any(future.done() for future in futures)
    hive.gate.set()
    assert [future.result(DEADLINE) for future in futures] == list(range(5))


def test_shutdown_cancels_what_has_not_begun(hive):
    executor = hive.executor()
    hive.gate.clear()
    futures = [executor.submit(abs, -number) for number in range(20)]
    futures[0].moved("RUNNING", None)
    threading.Timer(0.05, hive.gate.set).start()
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in futures] == [False] + [True] * 19
    assert futures[0].result() == 0


def test_leaving_the_block_waits(hive):
    with hive.executor() as executor:
        futures = list(map(executor.submit, [abs] * 5, range(5)))
    assert all(future.done() for future in futures)


def test_a_future_can_be_cancelled_once_and_not_after_its_end(executor, hive):
    hive.gate.clear()
    first, second = executor.submit(abs, 1), executor.submit(abs, 2)
    assert second.cancel()
    assert second.cancel()
    with pytest.raises(CancelledError):
        second.result(DEADLINE)
    hive.gate.set()
    assert first.result(DEADLINE) == 1
    assert not first.cancel()


def test_waiting_for_the_first_the_first_error_and_all(executor, hive, done_job):
    hive.gate.clear()
    slow = executor.submit(abs, -3)
    done, waiting = concurrent.futures.wait([slow, done_job], return_when=FIRST_COMPLETED)
    assert (done, waiting) == ({done_job}, {slow})
    done, waiting = concurrent.futures.wait([slow, done_job], timeout=0.01, return_when=ALL_COMPLETED)
    assert waiting == {slow}
    hive.gate.set()
    bad = executor.submit(fail, 1)
    done, _ = concurrent.futures.wait([bad, slow], timeout=DEADLINE, return_when=FIRST_EXCEPTION)
    assert bad in done
    done, waiting = concurrent.futures.wait([bad, slow], timeout=DEADLINE)
    assert waiting == set()


def test_as_completed_gives_each_once_and_those_that_are_done_first(executor, hive, done_job):
    hive.gate.clear()
    slow = executor.submit(abs, -3)
    came = concurrent.futures.as_completed([slow, done_job, done_job], timeout=DEADLINE)
    assert next(came) is done_job
    hive.gate.set()
    assert list(came) == [slow]
    hive.gate.clear()
    late = concurrent.futures.as_completed([executor.submit(abs, 1)], timeout=0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        list(late)


def test_callbacks_are_called_once_in_order_and_their_errors_harm_nobody(executor, hive):
    hive.gate.clear()
    future, called = executor.submit(abs, -5), []
    future.add_done_callback(lambda done: called.append(("first", done.result())))
    future.add_done_callback(lambda done: called.append(("second", done is future)))
    hive.gate.set()
    future.result(DEADLINE)
    future.add_done_callback(lambda done: called.append("late"))
    assert called == [("first", 5), ("second", True), "late"]


def test_asyncio_runs_functions_in_it(executor):
    async def main():
        return await asyncio.get_running_loop().run_in_executor(executor, pow, 2, 5)

    assert asyncio.run(main()) == 32


def test_it_keeps_no_arguments_and_no_results(executor):
    class Thing:
        pass

    thing = Thing()
    future = executor.submit(isinstance, thing, object)
    seen = weakref.ref(thing)
    assert future.result(DEADLINE) is True
    del thing
    gc.collect()
    assert seen() is None
    kept = weakref.ref(future)
    del future
    executor._tasks.launched.clear()
    executor.submit(abs, 1).result(DEADLINE)
    executor._tasks.launched.clear()
    gc.collect()
    assert kept() is None


def test_many_threads_submit_at_once(executor):
    found = []

    def some():
        found.extend(executor.submit(abs, -number).result(DEADLINE) for number in range(20))

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(found) == sorted([*range(20)] * 8)


def test_options_hold_for_what_is_submitted(hive):
    with hive.with_options(priority="high").executor() as executor:
        executor.submit(abs, 1).result(DEADLINE)
    assert hive.launched[0][1].priority == 1
