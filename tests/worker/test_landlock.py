"""Landlock's structures, as the kernel's header lays them out."""

import struct

import pytest

from hivemind_p2p.worker import landlock


@pytest.mark.parametrize(("abi", "length"), [(3, 8), (4, 16), (5, 16), (6, 24), (7, 24)])
def test_a_kernel_is_told_only_what_it_knows(abi, length):
    assert len(landlock.ruleset(abi, network=False)) == length


def test_every_right_to_files_is_taken_away():
    assert landlock.handled_files(3) == (1 << 15) - 1
    assert landlock.handled_files(5) == (1 << 16) - 1
    assert struct.unpack_from("=Q", landlock.ruleset(6, network=True))[0] == (1 << 16) - 1


def test_the_network_is_given_up_unless_it_is_allowed():
    assert struct.unpack("=QQQ", landlock.ruleset(6, network=False))[1:] == (3, 3)
    assert struct.unpack("=QQQ", landlock.ruleset(6, network=True))[1:] == (0, 3)


def test_readable_is_not_writable():
    allowed, descriptor = struct.unpack("=Qi", landlock.rule(6, 9, writable=False, folder=True))
    assert descriptor == 9
    assert allowed == landlock.EXECUTE | landlock.READ_FILE | landlock.READ_FOLDER
    assert not allowed & landlock.WRITE


def test_devices_are_controlled_only_where_that_is_said():
    for device in (False, True):
        allowed, _ = struct.unpack("=Qi", landlock.rule(6, 3, writable=True, folder=False, device=device))
        assert bool(allowed & landlock.DEVICE_CONTROL) is device
    allowed, _ = struct.unpack("=Qi", landlock.rule(4, 3, writable=True, folder=False, device=True))
    assert not allowed & landlock.DEVICE_CONTROL  # which that version does not know


def test_no_rule_lets_devices_be_made_or_names_what_a_file_does_not_have():
    folder, _ = struct.unpack("=Qi", landlock.rule(6, 9, writable=True, folder=True))
    file, _ = struct.unpack("=Qi", landlock.rule(6, 9, writable=True, folder=False))
    assert not folder & (landlock.MAKE_DEVICE | landlock.MAKE_BLOCK)
    assert file == landlock.EXECUTE | landlock.READ_FILE | landlock.WRITE_FILE | landlock.TRUNCATE
