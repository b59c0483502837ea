"""The filter of system calls, run by a small interpreter of its own instruction set."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.worker import seccomp
from hivemind_p2p.worker.seccomp import ALLOW, ENOSYS, EPERM, INSTRUCTION, KILL, MACHINES, PRETEND, program, rules
from hivemind_p2p.worker.system_calls import NEWEST

MOST_INSTRUCTIONS = 4096
"""BPF_MAXINSNS of the kernel."""

WALLED = rules(shared=False, network=False)
SHARED = rules(shared=True, network=False, same_user=True, own_pid=42)


def run(code, number, *arguments, architecture):
    """What the kernel would do: https://docs.kernel.org/networking/filter.html."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(INSTRUCTION.iter_unpack(code))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, value = instructions[at]
        at += 1
        if operation == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == seccomp.AND:
            accumulator &= value
        elif operation == seccomp.IF_EQUAL:
            at += if_true if accumulator == value else if_false
        elif operation == seccomp.IF_GREATER:
            at += if_true if accumulator > value else if_false
        else:
            assert operation == seccomp.RETURN
            return value


@pytest.fixture(params=sorted(MACHINES))
def machine(request):
    return MACHINES[request.param]


@pytest.fixture
def verdict(machine):
    def judge(found, name, *arguments):
        return run(program(machine, found), machine.numbers[name], *arguments, architecture=machine.architecture)

    return judge


def test_every_forbidden_call_of_this_machine_fails(machine, verdict):
    there = [name for name in seccomp.FORBIDDEN if name in machine.numbers]
    assert len(there) > 50
    assert {verdict(WALLED, name) for name in there} == {EPERM}
    assert {verdict(WALLED, name) for name in seccomp.UNKNOWN} == {ENOSYS}


def test_the_names_are_those_of_the_table():
    known = set(MACHINES["x86_64"].numbers)
    for name in (*seccomp.FORBIDDEN, *seccomp.UNKNOWN, *seccomp.SHARED_IPC, *seccomp.FILE_RIGHTS, *seccomp.LEAVING):
        assert name in known


def test_ordinary_calls_go_through(machine):
    code = program(machine, SHARED)
    for name in ("read", "write", "openat", "mmap", "futex", "execve", "wait4", "landlock_restrict_self"):
        number = {"read": 63, "write": 64, "openat": 56, "mmap": 222, "futex": 98, "execve": 221, "wait4": 260}
        x86 = {"read": 0, "write": 1, "openat": 257, "mmap": 9, "futex": 202, "execve": 59, "wait4": 61}
        numbers = x86 if machine is MACHINES["x86_64"] else number
        assert run(code, numbers.get(name, 446), architecture=machine.architecture) == ALLOW


def test_another_interface_ends_the_process(machine):
    code = program(machine, WALLED)
    assert run(code, 11, architecture=0x40000003) == KILL  # i386, by int 0x80
    if machine.foreign:
        assert run(code, machine.foreign | 1, architecture=machine.architecture) == KILL
        assert run(code, -1, architecture=machine.architecture) == KILL


def test_calls_that_are_newer_than_the_table_look_unknown(machine):
    assert run(program(machine, WALLED), NEWEST + 1, architecture=machine.architecture) == ENOSYS


def test_a_thread_can_be_made_and_a_namespace_cannot(verdict):
    thread, fork = 0x3D0F00, 0x1200011
    assert verdict(WALLED, "clone", thread) == ALLOW
    assert verdict(WALLED, "clone", fork) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(WALLED, "clone", fork | bit) == EPERM


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "expected"),
    [
        (1, 1, 0, ALLOW),
        (2, 1 | 0o2000000, 0, ALLOW),
        (10, 2, 17, ALLOW),
        (2, 3, 1, EPERM),
        (10, 3, 58, EPERM),
        (2, 10, 0, EPERM),
        (16, 3, 0, EPERM),
        (17, 2, 0, EPERM),
        (38, 5, 0, EPERM),
        (40, 1, 0, EPERM),
    ],
    ids=["unix", "tcp", "udp", "raw", "raw6", "packet kind", "netlink", "packets", "crypto", "vsock"],
)
def test_sockets_behind_namespaces(verdict, family, kind, protocol, expected):
    assert verdict(WALLED, "socket", family, kind, protocol) == expected


def test_sockets_without_namespaces(verdict):
    closed, open_ = rules(shared=True, network=False), rules(shared=True, network=True)
    for family in (1, 2, 10, 16):
        assert verdict(closed, "socket", family, 1) == EPERM
    assert verdict(open_, "socket", 2, 1) == ALLOW
    assert verdict(open_, "socket", 2, 3) == EPERM
    assert verdict(open_, "socket", 1, 1) == EPERM
    behind = rules(shared=False, network=True)  # the machine's network, and so its abstract names
    assert [verdict(behind, "socket", family, 1) for family in (1, 2, 10)] == [EPERM, ALLOW, ALLOW]
    assert verdict(closed, "socketpair", 1, 1) == ALLOW
    assert verdict(closed, "socketpair", 16, 1) == EPERM


def test_a_terminal_is_not_typed_into(verdict):
    assert verdict(WALLED, "ioctl", 1, 0x5412) == EPERM
    assert verdict(WALLED, "ioctl", 1, 0x541C) == EPERM
    assert verdict(WALLED, "ioctl", 1, 0x5413) == ALLOW
    assert verdict(WALLED, "ioctl", 1, (1 << 32) | 0x5412) == EPERM  # the kernel looks at the low half alone


def test_signals_stay_inside_where_landlock_does_not_keep_them(verdict):
    for name in ("kill", "tgkill"):
        assert verdict(SHARED, name, 42, 9) == ALLOW
        assert verdict(SHARED, name, 0, 9) == ALLOW
        assert verdict(SHARED, name, 43, 9) == EPERM
        assert verdict(SHARED, name, (1 << 64) - 1, 9) == EPERM
    assert verdict(SHARED, "tkill", 42, 9) == EPERM
    assert verdict(rules(shared=True, network=False), "kill", 43, 9) == ALLOW


def test_other_processes_keep_their_limits_and_files_their_rights(verdict):
    assert verdict(SHARED, "prlimit64", 0, 7) == ALLOW
    assert verdict(SHARED, "prlimit64", 43, 7) == EPERM
    assert verdict(SHARED, "setpriority", 0, 0, 5) == ALLOW
    assert verdict(SHARED, "setpriority", 0, 43, 5) == EPERM
    assert verdict(SHARED, "fchmodat") == PRETEND
    assert verdict(SHARED, "setsid") == EPERM
    assert verdict(WALLED, "setsid") == ALLOW


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.lists(st.integers(0, (1 << 64) - 1), max_size=6))
def test_every_call_gets_a_verdict(number, arguments):
    for machine in MACHINES.values():
        code = program(machine, SHARED)
        assert len(code) // INSTRUCTION.size <= MOST_INSTRUCTIONS
        found = run(code, number, *arguments, architecture=machine.architecture)
        assert found in (ALLOW, KILL, EPERM, ENOSYS, PRETEND)


def test_a_child_stays_tied_to_the_peer(verdict):
    assert verdict(WALLED, "prctl", 1, 0) == EPERM
    assert verdict(WALLED, "prctl", 36, 0) == EPERM
    assert verdict(WALLED, "prctl", 15, 0) == ALLOW  # a thread's name
