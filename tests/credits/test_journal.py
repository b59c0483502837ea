from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.credits.journal import Journal


def test_what_is_appended_is_read_in_order(tmp_path: Path):
    journal = Journal(tmp_path / "till")
    for payment in (b"one", b"", b"three" * 100):
        journal.append(payment)
    assert Journal(tmp_path / "till").read() == [b"one", b"", b"three" * 100]
    assert (tmp_path / "till" / "payments").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("missing", range(1, 12))
def test_a_record_cut_off_by_a_crash_is_left_out_and_the_file_goes_on(tmp_path: Path, missing: int):
    journal = Journal(tmp_path)
    journal.append(b"kept")
    journal.append(b"cut off")
    path = tmp_path / "payments"
    path.write_bytes(path.read_bytes()[:-missing])
    again = Journal(tmp_path)
    assert again.read() == [b"kept"]
    again.append(b"new")
    assert Journal(tmp_path).read() == [b"kept", b"new"]


def test_replacing_keeps_only_what_is_named(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(b"old")
    journal.replace([b"new"])
    assert journal.read() == [b"new"]
    journal.replace([])
    assert journal.size == 0
    assert Journal(tmp_path).read() == []


def test_without_a_folder_nothing_is_written():
    journal = Journal(None)
    journal.append(b"x")
    journal.replace([])
    assert journal.read() == []


@given(st.binary(max_size=300))
def test_any_file_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    folder = tmp_path_factory.mktemp("journal")
    (folder / "payments").write_bytes(data)
    journal = Journal(folder)
    kept = journal.read()
    journal.append(b"after")
    assert Journal(folder).read() == [*kept, b"after"]
