import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.bt.bencode import BencodeError, decode, encode

values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_decoding_undoes_encoding(value):
    assert decode(encode(value)) == value


@given(st.binary(max_size=64) | st.text(alphabet="dlei0123456789:-a", max_size=40).map(str.encode))
def test_whatever_decodes_is_the_one_encoding_of_its_value(data):
    try:
        value = decode(data)
    except BencodeError:
        return
    assert encode(value) == data


def test_the_examples_of_bep_3():
    assert encode({b"spam": [b"a", b"b"], b"cow": -3, b"": {}}) == b"d0:de3:cowi-3e4:spaml1:a1:bee"
    assert decode(b"d3:cow3:moo4:spam4:eggse") == {b"cow": b"moo", b"spam": b"eggs"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"i03e",
        b"i-0e",
        b"i-e",
        b"ie",
        b"i1",
        b"i+1e",
        b"i 1e",
        b"i1_0e",
        b"i" + b"1" * 30 + b"e",
        b"03:abc",
        b"-1:a",
        b"3:ab",
        b"9999999999999999999:a",
        b"l",
        b"li1e",
        b"d1:a",
        b"di1ei2ee",
        b"d1:b0:1:a0:e",
        b"d1:a0:1:a0:e",
        b"i1ei2e",
        b"x",
        b"l" * 100 + b"e" * 100,
    ],
)
def test_what_is_not_canonical_is_refused(data):
    with pytest.raises(BencodeError):
        decode(data)


def test_size_and_depth_are_bounded():
    nested = b"l" * 5 + b"e" * 5
    assert decode(nested, deepest=5) == [[[[[]]]]]
    with pytest.raises(BencodeError, match="deeper than 4"):
        decode(nested, deepest=4)
    with pytest.raises(BencodeError, match="more than the 9 allowed"):
        decode(nested, most_bytes=9)


@pytest.mark.parametrize("value", [True, None, 1.5, "text", {"text": 1}])
def test_other_types_are_not_encoded(value):
    with pytest.raises(TypeError):
        encode(value)
