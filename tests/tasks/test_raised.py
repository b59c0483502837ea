"""Errors of functions that raised elsewhere: caught like those of functions that raise here, and never harmful."""

import builtins

import pytest

from hivemind_p2p import errors
from hivemind_p2p.errors import TaskFailedError
from hivemind_p2p.tasks.raised import closest_builtin, failed


def test_it_is_caught_as_what_it_was_and_as_a_failed_task():
    error = failed("on peer x: ZeroDivisionError: division by zero", "ZeroDivisionError", "Traceback ...")
    with pytest.raises(ZeroDivisionError):
        raise error
    with pytest.raises(TaskFailedError):
        raise error
    assert error.code() == "task_failed"
    assert "Traceback ..." in str(error)


def test_classes_of_users_are_caught_as_the_builtin_one_below_them():
    class OwnError(KeyError):
        pass

    assert closest_builtin(OwnError("x")) == "KeyError"


EVERY = [name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)]


@pytest.mark.parametrize("name", [*EVERY, "print", "int", "", "no such thing", "__import__", "eval", "exit"])
def test_whatever_name_a_peer_sends_a_failed_task_comes_of_it(name):
    error = failed("it raised", name)
    assert isinstance(error, TaskFailedError)
    assert not isinstance(error, StopIteration | StopAsyncIteration | KeyboardInterrupt | SystemExit | GeneratorExit)
    assert error.message == "it raised"


def test_these_classes_do_not_change_what_codes_mean():
    failed("it raised", "ValueError")
    assert type(errors.from_code("task_failed", "it raised")) is TaskFailedError
