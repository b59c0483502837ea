"""Published models to records and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import RecordError
from hivemind_p2p.sharding import wire
from hivemind_p2p.types import Link, PeerId, Record


def model(**changed: object) -> wire.ModelRecord:
    values: dict[str, object] = {
        "link": Link("magnet:a"),
        "name": "tiny",
        "layer_count": 6,
        "stages_wanted": 3,
        "architecture": "LlamaForCausalLM",
    }
    return wire.ModelRecord(**(values | changed))  # type: ignore[arg-type]


def record(value: bytes, signer: str = "a") -> Record:
    return Record("models", PeerId(signer), value, 1, 1e12)


def test_models_go_there_and_back() -> None:
    models = (model(), model(link=Link("magnet:b"), stages_wanted=1))
    assert wire.decode_models(record(wire.encode_models(models))) == models


@pytest.mark.parametrize(
    "changed",
    [{"stages_wanted": 7}, {"stages_wanted": 0}, {"layer_count": 2**20}, {"name": "n" * 2000}, {"link": "l" * 600}],
)
def test_models_that_no_honest_peer_announces(changed: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        wire.decode_models(record(wire.encode_models([model(**changed)])))


def test_too_many_models() -> None:
    with pytest.raises(RecordError):
        wire.decode_models(record(wire.encode_models([model()] * 17)))


def test_one_bad_record_hides_no_other_and_the_first_signer_is_believed() -> None:
    records = [
        record(wire.encode_models([model(name="second")]), "b"),
        record(b"\xff\xff", "0"),
        record(wire.encode_models([model(name="first")]), "a"),
    ]
    found = wire.find_model(records, Link("magnet:a"))
    assert found is not None
    assert found.name == "first"
    assert wire.find_model(records, Link("magnet:z")) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_models_or_a_record_error(value: bytes) -> None:
    try:
        found = wire.decode_models(record(value))
    except RecordError:
        return
    assert all(1 <= each.stages_wanted <= each.layer_count for each in found)
