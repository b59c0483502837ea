"""A function is packed once for as long as nothing in it can differ, and never longer."""

import pickle
import types

import pytest

from hivemind_p2p.errors import NotSerializableError
from hivemind_p2p.tasks.library.function import FunctionTask
from hivemind_p2p.tasks.library.packing import pack_parts, shared_part


def module(source, **variables):
    """A module like a notebook: what it defines travels by value."""
    made = types.ModuleType("__main__")
    vars(made).update(variables)
    exec(compile(source, "<cell>", "exec"), vars(made))
    return made


def run(function, *args, **kwargs):
    part, payload = pack_parts(function, args, kwargs)
    if part is None:
        return FunctionTask().run(memoryview(payload))
    return FunctionTask().run_shared(part.data, memoryview(payload))


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return x + 1",
        "def f(x): return x + NUMBER - 1",
        "import math\ndef f(x): return math.floor(x) + 1",
        "def g(x): return x + 1\ndef f(x): return g(x)",
        "def f(x, y=(1, 'one')): return x + y[0]",
        "def f(x): return sum([each for each in (x, 1)])",
        "def make(y):\n    def f(x): return x + y\n    return f\nf = make(1)",
        "def f(x): return f(x - 1) + 1 if x > 100 else x + 1",
    ],
)
def test_what_is_fixed_is_packed_once(source):
    function = module(source, NUMBER=2).f
    assert shared_part(function) is shared_part(function) is not None
    assert run(function, 41) == 42


@pytest.mark.parametrize(
    "source",
    [
        "LIST = [1]\ndef f(x): return x + LIST[0]",
        "class C: one = 1\ndef f(x): return x + C.one",
        "def f(x, y=[1]): return x + y[0]",
        "def f(x, *, y=1): return x + y",
        "def make(y):\n    def f(x): return x + y[0]\n    return f\nf = make([1])",
        "LIST = [1]\ndef g(x): return x + LIST[0]\ndef f(x): return g(x)",
        "COUNT = 0\ndef f(x):\n    global COUNT\n    COUNT += 1\n    return x + COUNT",
        "def f(x): return x + f.one\nf.one = 1",
        "import functools\ndef g(y, x): return x + y\nf = functools.partial(g, 1)",
    ],
)
def test_what_can_change_is_packed_each_time(source):
    function = module(source).f
    assert shared_part(function) is None
    assert run(function, 41) == 42
    assert run(function, 41) == 42


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("NUMBER = 1\ndef f(): return NUMBER", lambda made: setattr(made, "NUMBER", 2)),
        ("def g(): return 1\ndef f(): return g()", lambda made: setattr(made, "g", lambda: 2)),
        ("NUMBER = 1\ndef g(): return NUMBER\ndef f(): return g()", lambda made: setattr(made, "NUMBER", 2)),
        ("def f(): return len('x')", lambda made: setattr(made, "len", lambda _: 2)),
        ("def f(x=1): return x", lambda made: setattr(made.f, "__defaults__", (2,))),
        ("def f(): return 1\ndef g(): return 2", lambda made: setattr(made.f, "__code__", made.g.__code__)),
        (
            "def make():\n    x = 1\n    def f(): return x\n    def change():\n        nonlocal x\n        x = 2\n"
            "    return f, change\nf, change = make()",
            lambda made: made.change(),
        ),
        ("NUMBER = 1\ndef f(): return NUMBER", lambda made: setattr(made, "NUMBER", [2][0])),
    ],
)
def test_a_function_that_was_changed_is_packed_anew(source, change):
    made = module(source)
    assert run(made.f) == 1
    change(made)
    assert run(made.f) == 2


def test_builtins_and_installed_functions_travel_by_name():
    import posixpath

    assert run(pow, 2, 10) == 1024
    assert shared_part(posixpath.basename) is shared_part(posixpath.basename) is not None
    assert len(shared_part(posixpath.basename).data) < 100
    assert run("x".join, ["a", "b"]) == "axb"


@pytest.mark.parametrize(
    "argument", [None, 1, "text", [1, {"a": (2.5, b"x")}], {1, 2}, list(range(10_000)), lambda x: x, type("C", (), {})]
)
def test_arguments_of_all_kinds_arrive(argument):
    def same(*args, **kwargs):
        return args, kwargs

    (first,), named = run(same, argument, named=argument)
    if not callable(argument):
        assert (first, named["named"]) == (argument, argument)
    assert first is named["named"] or argument is None or not callable(argument)


def test_no_arguments_are_no_bytes():
    assert pack_parts(dict)[1] == b""


def test_what_cannot_be_packed_is_named():
    with pytest.raises(NotSerializableError, match="argument 0"):
        pack_parts(len, ((each for each in ()),))
    with pytest.raises(NotSerializableError, match="is no function"):
        pack_parts("len")


def test_one_unpacked_function_serves_many_calls():
    task = FunctionTask()
    part, _ = pack_parts(module("def f(x): return x * 2").f)
    payload = memoryview(pickle.dumps(((21,), {})))
    assert [task.run_shared(part.data, payload) for _ in range(3)] == [42] * 3
    assert len(task._functions) == 1
