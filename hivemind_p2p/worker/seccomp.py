"""The filter of system calls around a task, as the program that the kernel runs. Nothing here installs anything.

A task may call what ordinary programs call. What it may not call are the calls that reach past its walls (tracing
other processes, mounting, keys, other namespaces), and those that expose much of the kernel to little use (bpf,
io_uring, userfaultfd, performance counters). A refused call fails with EPERM, or ENOSYS where programs know another
way; a call of another machine's binary interface, whose numbers mean other things, ends the process. Calls that are
newer than this table fail with ENOSYS, as on an older kernel.

The program is classic BPF (https://docs.kernel.org/userspace-api/seccomp_filter.html): one 8-byte instruction after
the other, over the 64 bytes of `struct seccomp_data`: number, architecture, instruction pointer, six arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hivemind_p2p.worker.system_calls import AARCH64, NEWEST, X86_64

INSTRUCTION: Final = struct.Struct("=HBBI")
"""``struct sock_filter``: code, jump if true, jump if false, value."""

LOAD: Final = 0x20
AND: Final = 0x54
IF_EQUAL: Final = 0x15
IF_GREATER: Final = 0x25
RETURN: Final = 0x06

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
_FAIL: Final = 0x00050000
EPERM: Final = _FAIL | 1
ENOSYS: Final = _FAIL | 38
PRETEND: Final = _FAIL | 0
"""The call is not made, and says that it went well."""

_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_OTHER_PROCESSES: Final = _words(
    "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease move_pages "
    "migrate_pages set_mempolicy_home_node perf_event_open lookup_dcookie"
)
_FILE_SYSTEMS: Final = _words(
    "mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick mount_setattr "
    "statmount listmount name_to_handle_at open_by_handle_at fanotify_init fanotify_mark quotactl quotactl_fd acct "
    "swapon swapoff sysfs ustat file_setattr"
)
_KERNEL: Final = _words(
    "bpf kexec_load kexec_file_load init_module finit_module delete_module create_module get_kernel_syms query_module "
    "reboot syslog userfaultfd memfd_secret map_shadow_stack modify_ldt iopl ioperm uselib _sysctl nfsservctl vhangup "
    "mbind set_mempolicy uretprobe"
)
_NAMESPACES_AND_KEYS: Final = _words("setns unshare keyctl add_key request_key sethostname setdomainname")
_CLOCKS: Final = _words("settimeofday clock_settime adjtimex clock_adjtime")

FORBIDDEN: Final = (*_OTHER_PROCESSES, *_FILE_SYSTEMS, *_KERNEL, *_NAMESPACES_AND_KEYS, *_CLOCKS)
"""Calls that fail with EPERM whatever their arguments."""

UNKNOWN: Final = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""Calls that look as if this kernel did not have them. clone3 keeps its flags in memory, where no filter sees them;
the C library then uses clone."""

SHARED_IPC: Final = _words(
    "shmget shmat shmctl semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink"
)
"""System V's and POSIX's queues and memory: all processes of a user share them unless there is a namespace."""

FILE_RIGHTS: Final = _words(
    "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat "
    "setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr setxattrat removexattrat"
)
"""Rights and times of files, which Landlock does not guard: a task that is the peer's own user could change them all
over the machine. They do nothing and say that it went well, or copying a file would fail."""

LEAVING: Final = ("setsid", "setpgid")
"""Ways out of the process group, which is what is killed in the end."""

_NEW_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""

_TIES: Final = (1, 35, 36, 0x59616D61)
"""PR_SET_PDEATHSIG, SET_MM, SET_CHILD_SUBREAPER, SET_PTRACER: what ties a child to the peer or lets others in."""

_UNIX, _INET, _INET6 = 1, 2, 10
_STREAM, _DATAGRAM, _SEQUENCED = 1, 2, 5
_SOCKET_KIND: Final = 0xF
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_QUERY: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Test:
    """One look at an argument: its low 32 bits under a mask, and the values of which it must (or must not) be one.

    The arguments that are looked at are 32 bits wide to the kernel, too, or all of their flags lie there.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """A call that is made only if every test of its arguments holds; without tests, never."""

    name: str
    otherwise: int = EPERM
    tests: tuple[Test, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of processor as the kernel names it, and its numbers of calls."""

    architecture: int
    numbers: dict[str, int]
    foreign: int = 0
    """The first number that belongs to another interface of the same architecture; 0 if there is none."""


MACHINES: Final = {
    "x86_64": Machine(0xC000003E, X86_64, foreign=0x40000000),
    "aarch64": Machine(0xC00000B7, AARCH64),
}
"""By `os.uname().machine`."""


def rules(*, shared: bool, network: bool, same_user: bool = False, own_pid: int = 0) -> tuple[Rule, ...]:
    """What a task may not do.

    Args:
        shared: Whether it shares the machine's namespaces, so that the filter has to stand in for them: without
            bubblewrap.
        network: Whether it may use the machine's network.
        same_user: Whether it is the user that runs the peer, whose files and processes it could reach then.
        own_pid: The only process that it may send signals to; 0 where something else takes care of that.
    """
    found = [Rule(name) for name in FORBIDDEN]
    found += [Rule(name, ENOSYS) for name in UNKNOWN]
    found += [
        Rule("clone", EPERM, (Test(0, (0,), mask=_NEW_NAMESPACES),)),
        Rule("ioctl", EPERM, (Test(1, (_TIOCSTI, _TIOCLINUX), wanted=False),)),
        Rule("prctl", EPERM, (Test(0, _TIES, wanted=False),)),
        Rule("personality", EPERM, (Test(0, (0, _QUERY)),)),
        Rule("socket", EPERM, _sockets(shared=shared or network, network=network)),
        Rule("socketpair", EPERM, (Test(0, (_UNIX,)),)),
    ]
    if not shared:
        return tuple(found)
    found += [Rule(name) for name in (*SHARED_IPC, *LEAVING)]
    if same_user:
        found += [Rule(name, PRETEND) for name in FILE_RIGHTS]
    # Without a namespace of processes these reach all processes of the same user; 0 is the caller itself.
    found += [Rule(name, EPERM, (Test(0, (0,)),)) for name in ("prlimit64", "sched_setscheduler", "sched_setparam")]
    found += [Rule(name, EPERM, (Test(1, (0,)),)) for name in ("setpriority", "ioprio_set")]
    found.append(Rule("sched_setattr", EPERM, (Test(0, (0,)),)))
    if own_pid:
        found += [Rule(name, EPERM, (Test(0, (0, own_pid)),)) for name in ("kill", "tgkill")]
        found += [Rule(name) for name in ("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")]
    return tuple(found)


def _sockets(*, shared: bool, network: bool) -> tuple[Test, ...]:
    """Never raw packets, netlink, or rare families, which are mostly attack surface.

    A path or an abstract name leads to the machine's own services, and Landlock does not stop `connect`: so no Unix
    sockets without namespaces, or with the machine's network, either. Pairs remain.
    """
    families: tuple[int, ...] = (_UNIX, _INET, _INET6)
    if shared:
        families = (_INET, _INET6) if network else ()
    if not families:
        return ()
    return Test(0, families), Test(1, (_STREAM, _DATAGRAM, _SEQUENCED), mask=_SOCKET_KIND)


def program(machine: Machine, wanted: tuple[Rule, ...]) -> bytes:
    """The program for the kernel. Rules for calls that this machine does not have are left out."""
    code = [
        *_unless(_ARCHITECTURE_AT, machine.architecture, KILL),
        (LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine.foreign:
        code += [(IF_GREATER, 0, 1, machine.foreign - 1), (RETURN, 0, 0, KILL)]
    code += [(IF_GREATER, 0, 1, NEWEST), (RETURN, 0, 0, ENOSYS)]
    for rule in wanted:
        if rule.name in machine.numbers:
            code += _rule(machine.numbers[rule.name], rule)
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in code)


def _unless(offset: int, value: int, result: int) -> Iterator[tuple[int, int, int, int]]:
    yield (LOAD, 0, 0, offset)
    yield (IF_EQUAL, 1, 0, value)
    yield (RETURN, 0, 0, result)


def _rule(number: int, rule: Rule) -> list[tuple[int, int, int, int]]:
    """For one number: decides it to the end, so that what comes after still finds the number in the accumulator."""
    body: list[tuple[int, int, int, int]] = []
    for test in rule.tests:
        body += _test(test, rule.otherwise)
    body.append((RETURN, 0, 0, ALLOW if rule.tests else rule.otherwise))
    return [(IF_EQUAL, 0, len(body), number), *body]


def _test(test: Test, otherwise: int) -> list[tuple[int, int, int, int]]:
    # Both machines keep the low half of an argument first.
    code: list[tuple[int, int, int, int]] = [(LOAD, 0, 0, _ARGUMENTS_AT + 8 * test.argument)]
    if test.mask != 0xFFFFFFFF:
        code.append((AND, 0, 0, test.mask))
    # On equality: to what follows the list, which is the refusal, or past it if the value is one of the wanted. In the
    # other case one step more lies between, so the distance is the same.
    code += [(IF_EQUAL, len(test.values) - index, 0, value) for index, value in enumerate(test.values)]
    if not test.wanted:
        code.append((IF_EQUAL, 1, 1, 0))  # none was equal: step over the refusal
    code.append((RETURN, 0, 0, otherwise))
    return code
