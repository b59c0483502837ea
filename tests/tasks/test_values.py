"""Safe values: what goes in comes out, what is unsafe is named, and no bytes off the wire do harm."""

import collections
import dataclasses
import enum
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError, UnsafeValueError
from hivemind_p2p.proto.tasks_pb2 import Structure
from hivemind_p2p.tasks import values
from hivemind_p2p.tasks.reading import MAX_EQUAL_HASHES, decode
from hivemind_p2p.tasks.values import encode

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 300), 1 << 300)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
keys = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=3)
        | st.frozensets(keys, max_size=3)
    ),
    max_leaves=20,
)


def same(left: object, right: object) -> bool:
    """Equal, and of equal types all the way down, which == alone does not say (1 == True == 1.0)."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, (list, tuple)):
        return all(same(one, other) for one, other in zip(left, right, strict=True))
    if isinstance(left, dict):
        return all(same(one, other) for one, other in zip(left.items(), right.items(), strict=True))
    return True


@given(trees)
@example(float("inf"))
@example("\ud800")
@example([-(1 << 63), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1])
def test_what_goes_in_comes_out(value):
    assert same(decode(encode(value)), value)


def test_nan_survives():
    (value,) = decode(encode([float("nan")]))
    assert value != value  # noqa: PLR0124


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "uint64",
        "int64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (3, 0, 2)])
def test_arrays_survive(dtype, shape):
    array = (np.arange(np.prod(shape, dtype=int)) % 2).astype(dtype).reshape(shape)
    back, neighbour = decode(encode([array, "neighbour"]))
    assert back.dtype == array.dtype
    assert back.shape == shape
    np.testing.assert_array_equal(back, array)
    assert neighbour == "neighbour"


def test_arrays_come_back_writable_and_in_native_order():
    data = np.arange(6, dtype=">i4").reshape(2, 3).T
    back = decode(encode(data))
    assert back.dtype == np.dtype("int32")
    np.testing.assert_array_equal(back, data)
    back += 1


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "float32", "float8_e4m3fn", "int64", "bool", "complex64", "uint16"]
)
def test_tensors_survive(dtype):
    tensor = torch.tensor([[0, 1, 2], [3, 0, 1]]).to(getattr(torch, dtype))
    back = decode(encode({"t": tensor}))["t"]
    assert back.dtype == tensor.dtype
    assert torch.equal(back.to(torch.complex64), tensor.to(torch.complex64))


def test_tensors_of_every_kind_of_storage_survive():
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    for tensor in (base.T, base[:, 1:], base.clone().requires_grad_(), torch.tensor(3.0), torch.zeros(0, 3)):
        assert torch.equal(decode(encode(tensor)), tensor)
    conjugate = torch.tensor([1 + 2j]).conj()
    assert torch.equal(decode(encode(conjugate)), conjugate)


@dataclasses.dataclass
class Point:
    x: int
    y: object


def test_relatives_of_plain_types_arrive_as_the_plain_type():
    class Colour(enum.IntEnum):
        RED = 3

    pair = collections.namedtuple("pair", "a b")(1, 2)
    given = [Point(1, Point(2, None)), pair, Colour.RED, collections.OrderedDict(a=1), np.float32(0.5), np.bool_(True)]
    back = decode(encode([*given, np.str_("s"), bytearray(b"b")]))
    assert same(back, [{"x": 1, "y": {"x": 2, "y": None}}, (1, 2), 3, {"a": 1}, 0.5, True, "s", b"b"])


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"x": [1, 2, 3, threading.Lock()]}, "result['x'][3] is a _thread.lock"),
        (lambda: 1, "result is a function"),
        ([Point(1, {2: object()})], "result[0].y[2] is a object"),
        ({(1, Point): 2}, "[1] is a type"),
        ([np.array([object()])], "result[0] is a numpy.ndarray of object"),
        (np.array(["text"]), "result is a numpy.ndarray of <U4"),
        (np.datetime64("2020-01-01"), "result is a numpy.datetime64"),
        (np.ma.masked_array([1], [True]), "result is a numpy.ma.MaskedArray"),
        ((torch.zeros(2, 2).to_sparse(),), "result[0] is a torch.Tensor"),
        (ValueError("x"), "result is a ValueError"),
    ],
)
def test_what_is_unsafe_is_named_with_its_place(value, place):
    with pytest.raises(UnsafeValueError) as caught:
        encode(value)
    assert place in caught.value.message


def test_what_contains_itself_is_refused():
    loop: list[object] = [1]
    loop.append({"again": loop})
    with pytest.raises(UnsafeValueError, match=r"result\[1\]\['again'\] contains itself"):
        encode(loop)
    shared = [1]
    assert decode(encode([shared, shared])) == [[1], [1]]


def test_what_is_too_deep_or_too_large_is_refused():
    deep: list[object] = []
    for _ in range(values.MAX_DEPTH):
        deep = [deep]
    with pytest.raises(UnsafeValueError, match="nested deeper than 100"):
        encode(deep)
    assert decode(encode(deep[0])) == deep[0]
    with pytest.raises(UnsafeValueError, match="larger than 1,000 bytes"):
        encode([b"x" * 500, b"x" * 501], max_bytes=1000)
    with pytest.raises(UnsafeValueError, match="is an integer of"):
        encode(1 << (8 * values.MAX_INTEGER_BYTES))
    bomb: list[object] = [0] * 100
    for _ in range(10):
        bomb = [bomb] * 100
    with pytest.raises(UnsafeValueError, match="more than 1,000,000 parts"):
        encode(bomb)


# -- bytes that a peer made up -----------------------------------------------------------------------------------------


def made_up(data: bytes = b"", **columns) -> bytes:
    structure = Structure(**columns).SerializeToString()
    start = values.data_offset(len(structure))
    return (len(structure).to_bytes(4, "big") + structure).ljust(start, b"\0") + data


def test_a_made_up_value_is_read_like_a_real_one():
    assert decode(made_up(b"hi", kinds=b"LSI", sizes=[2, 2], integers=[5])) == ["hi", 5]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff\xff" + bytes(200),
        bytes(3),
        made_up(kinds=b""),
        made_up(kinds=b"?"),
        made_up(kinds=b"NN"),
        made_up(b"left over", kinds=b"N"),
        made_up(kinds=b"I"),
        made_up(kinds=b"S", sizes=[1 << 62]),
        made_up(kinds=b"B", sizes=[1 << 40]),
        made_up(b"\xff", kinds=b"S", sizes=[1]),
        made_up(kinds=b"L", sizes=[1 << 62]),
        made_up(kinds=b"LN", sizes=[2]),
        made_up(kinds=b"L" * 200 + b"N", sizes=[1] * 200),
        made_up(kinds=b"MLI", sizes=[1, 0], integers=[1]),
        made_up(kinds=b"EL", sizes=[1, 0]),
        made_up(kinds=b"A", sizes=[1, 1 << 60], element_types=[13]),
        made_up(kinds=b"A", sizes=[2, 0, 1 << 60], element_types=[13]),
        made_up(kinds=b"A", sizes=[1000], element_types=[13]),
        made_up(kinds=b"A", sizes=[1, 0], element_types=[99]),
        made_up(kinds=b"A", sizes=[1, 0], element_types=[11]),
        made_up(kinds=b"G", sizes=[1, 0], element_types=[0]),
        pickle.dumps([1, 2, 3]),
    ],
)
def test_malformed_bytes_are_a_protocol_error(data):
    with pytest.raises(ProtocolError):
        decode(data)


def test_undefined_booleans_are_read_as_true():
    back = decode(made_up(b"\x02\x00\xff", kinds=b"A", sizes=[1, 3], element_types=[1]))
    assert back.view(np.uint8).tolist() == [1, 0, 1]


def test_keys_made_to_collide_are_refused():
    modulus = (1 << 61) - 1  # hash() of an int is its remainder by this: all of these keys hash to 0
    evil = {modulus * factor: None for factor in range(MAX_EQUAL_HASHES + 10)}
    with pytest.raises(ProtocolError, match="collide"):
        decode(encode(evil))


def test_a_value_over_the_limit_is_refused():
    data = encode(b"x" * 1000)
    with pytest.raises(ProtocolError, match="too large"):
        decode(data, max_bytes=999)


@given(st.binary(max_size=300))
def test_random_bytes_never_do_worse_than_a_protocol_error(data):
    try:
        decode(data)
    except ProtocolError:
        return


@settings(max_examples=300)
@given(
    st.binary(max_size=80),
    st.text("NTFIBDCSYLUMEZAG", max_size=12),
    st.lists(st.integers(0, 4) | st.integers(0, (1 << 64) - 1), max_size=12),
    st.lists(st.integers(0, 18), max_size=3),
)
def test_random_structures_never_do_worse_than_a_protocol_error(data, kinds, sizes, element_types):
    evil = made_up(
        data, kinds=kinds.encode(), sizes=sizes, element_types=element_types, integers=[1, 2], floats=[0.5, 1.5]
    )
    try:
        decode(evil)
    except ProtocolError:
        return


@given(trees, st.data())
def test_a_flipped_byte_never_does_worse_than_a_protocol_error(value, data):
    encoded = bytearray(encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode(encoded)
    except ProtocolError:
        return


def test_plain_values_load_neither_numpy_nor_torch():
    program = (
        "import sys; from hivemind_p2p.tasks.values import encode; from hivemind_p2p.tasks.reading import decode; "
        "decode(encode([1, 'a'])); sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
