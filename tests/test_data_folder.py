"""One process a data folder."""

import errno
import stat

import pytest

from hivemind_p2p.data_folder import owned_folder
from hivemind_p2p.errors import ConfigurationError, DiskFullError


def test_the_folder_is_made_for_its_owner_alone(tmp_path):
    with owned_folder(tmp_path / "a" / "b", "peer") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o600


def test_a_second_one_is_kept_out_until_the_first_has_left(tmp_path):
    with (
        owned_folder(tmp_path, "peer"),
        pytest.raises(ConfigurationError, match="another peer uses"),
        owned_folder(tmp_path, "peer"),
    ):
        pytest.fail("two owners")
    with owned_folder(tmp_path, "peer"):
        pass


def test_a_file_in_its_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot use the folder"), owned_folder(tmp_path / "file", "peer"):
        pytest.fail("a file was taken for a folder")


def test_a_full_disk_has_its_own_error(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.open", full)
    with pytest.raises(DiskFullError), owned_folder(tmp_path / "new", "peer"):
        pytest.fail("written to a full disk")


def test_what_is_raised_inside_passes_through(tmp_path):
    with pytest.raises(BlockingIOError), owned_folder(tmp_path, "peer"):
        raise BlockingIOError
