"""Packing functions: what travels by value, and errors that name the culprit."""

import subprocess
import sys
import threading

import cloudpickle
import pytest

from hivemind_p2p.errors import NotSerializableError, UnknownTaskTypeError
from hivemind_p2p.tasks import registry
from hivemind_p2p.tasks.library import function as function_type
from hivemind_p2p.tasks.library.function import NAME, FunctionTask, pack

LOCK = threading.Lock()
FACTOR = 3


def times_factor(x, plus=0):
    return x * FACTOR + plus


def uses_the_lock():
    return LOCK


def run(payload):
    return FunctionTask().run(memoryview(payload))


def test_a_function_runs_with_its_arguments():
    assert run(pack(times_factor, (2,), {"plus": 1})) == 7
    assert run(pack(lambda: FACTOR)) == 3
    assert run(pack(len, ("four",))) == 4


def test_the_callers_own_module_travels_by_value():
    """A process that cannot import this test module runs the function all the same."""
    program = (
        "import sys; from hivemind_p2p.tasks.library.function import FunctionTask; "
        "print(FunctionTask().run(memoryview(sys.stdin.buffer.read())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=pack(times_factor, (5,)), capture_output=True, check=True
    )
    assert done.stdout.strip() == b"15"


def test_a_local_package_beside_the_program_travels_by_value(tmp_path, monkeypatch):
    (tmp_path / "my_helpers.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_helpers

    payload = pack(lambda: my_helpers.double(4))
    by_name = pack(my_helpers.double, (4,))
    monkeypatch.delitem(sys.modules, "my_helpers")
    monkeypatch.undo()
    assert run(payload) == run(by_name) == 8


def test_installed_packages_travel_by_name():
    import numpy

    assert len(pack(numpy.linalg.norm, ([1.0],))) < 1000


def test_the_by_value_registry_is_left_as_it_was(monkeypatch):
    module = sys.modules[__name__]
    before = set(cloudpickle.list_registry_pickle_by_value())
    pack(times_factor, (1,))
    assert set(cloudpickle.list_registry_pickle_by_value()) == before
    cloudpickle.register_pickle_by_value(module)
    try:
        pack(times_factor, (1,))
        assert __name__ in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_the_culprit_is_named():
    lock = threading.Lock()
    for function, args, kwargs, culprit in (
        (times_factor, (1, lock), {}, r"argument 1 \(a lock\)"),
        (times_factor, (1,), {"plus": lock}, r"argument plus= \(a lock\)"),
        (lambda: lock, (), {}, r"the variable 'lock', which it uses, \(a lock\)"),
        (uses_the_lock, (), {}, r"the variable 'LOCK', which it uses, \(a lock\)"),
    ):
        with pytest.raises(NotSerializableError, match=culprit) as caught:
            pack(function, args, kwargs)
        assert "cannot send" in caught.value.message
    with pytest.raises(NotSerializableError, match="is no function"):
        pack(42)


def test_task_types_are_found_by_name():
    assert registry.task_type(NAME).name == NAME
    assert NAME in registry.task_type_names()
    with pytest.raises(UnknownTaskTypeError, match="'nonsense/1'"):
        registry.task_type("nonsense/1")


def test_more_than_a_task_can_carry_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr(function_type, "MAX_PAYLOAD_BYTES", 10_000)
    with pytest.raises(NotSerializableError, match=r"len\(\): it has 20,\d{3} bytes"):
        pack(len, (bytes(20_000),))
