"""A seccomp filter for one untrusted Python program, built as classic BPF without a library.

An allowlist: what an interpreter needs to compute, with reading files and threads among it. Everything else
fails with EPERM: new processes, other programs, signals, sockets, writing files, changing limits of others.
Left out on purpose: paths (Landlock and the mount namespace decide those) and any other architecture than
x86_64 and aarch64.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

ALLOWED: Mapping[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "close": (3, 57),
    "close_range": (436, 436),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "stat": (4, None),
    "lstat": (6, None),
    "statx": (332, 291),
    "lseek": (8, 62),
    "getdents64": (217, 61),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "fadvise64": (221, 223),
    "getcwd": (79, 17),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mincore": (27, 232),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "select": (23, None),
    "pselect6": (270, 72),
    "poll": (7, None),
    "ppoll": (271, 73),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, None),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "uname": (63, 160),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "getcpu": (309, 168),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "arch_prctl": (158, None),
    "recvfrom": (45, 207),
}
"""System call: its number on x86_64 and on aarch64; None where the newer architecture never had it."""

EXAMINED: Mapping[str, tuple[int, int | None]] = {
    "open": (2, None),
    "openat": (257, 56),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "clone": (56, 220),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "clone3": (435, 435),
    "openat2": (437, 437),
}
"""System calls that are allowed for some arguments only (`RULES`)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds where `argument & mask == value`, on the low 32 bits of the argument."""

    argument: int
    mask: int
    value: int


_ALL = 0xFFFFFFFF
_O_WRITES = 0o3 | 0o100 | 0o1000 | 0o20000000  # the access mode, O_CREAT, O_TRUNC and __O_TMPFILE
_CLONE_THREAD = 0x10000
_SOCK_TYPE, _SOCK_STREAM = 0xF, 1
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032, 1034)  # duplicate, get and set flags; pipe size and seals are read only
_PRCTLS = (15, 16)  # a thread's own name

RULES: Mapping[str, tuple[tuple[Condition, ...], ...]] = {
    "open": ((Condition(1, _O_WRITES, 0),),),
    "openat": ((Condition(2, _O_WRITES, 0),),),
    # An event loop wakes itself through a socket pair. A datagram pair could address other sockets.
    "socketpair": ((Condition(0, _ALL, 1), Condition(1, _SOCK_TYPE, _SOCK_STREAM)),),
    "sendto": ((Condition(4, _ALL, 0), Condition(5, _ALL, 0)),),
    # F_SETOWN with O_ASYNC would send signals to any process of the same user.
    "fcntl": tuple((Condition(1, _ALL, command),) for command in _FCNTLS),
    "ioctl": tuple((Condition(1, _ALL, request),) for request in _IOCTLS),
    "clone": ((Condition(0, _CLONE_THREAD, _CLONE_THREAD),),),
    # Clearing the parent-death signal would let a program outlive the one that scores it.
    "prctl": tuple((Condition(0, _ALL, option),) for option in _PRCTLS),
    "prlimit64": ((Condition(0, _ALL, 0),),),
    "clone3": (),
    "openat2": (),
}
"""System call: alternatives, each a conjunction."""

_ABSENT = ("clone3", "openat2")
"""Their arguments lie in memory, where a filter cannot look: ENOSYS makes the C library use the older call."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _JUMP_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_RET_KILL, _RET_ALLOW, _RET_ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; both architectures are little-endian


def build(machine: str) -> bytes:
    """The filter as an array of `struct sock_filter` (8 bytes each) for `os.uname().machine`.

    Raises ValueError for an architecture that has no table here.
    """
    if machine not in _AUDIT_ARCH:
        raise ValueError(f"no system call filter for {machine}: the sandbox runs on {' and '.join(_AUDIT_ARCH)}")
    column = list(_AUDIT_ARCH).index(machine)
    program = [
        _op(_LOAD, _ARCH),
        _op(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _op(_RETURN, _RET_KILL),
        _op(_LOAD, _NUMBER),
    ]
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program += [_op(_JUMP_EQUAL, number, 0, 1), _op(_RETURN, _RET_ALLOW)]
    for name, numbers in EXAMINED.items():
        number = numbers[column]
        if number is not None:
            body = _examine(name)
            program += [_op(_JUMP_EQUAL, number, 0, len(body)), *body]
    program.append(_op(_RETURN, _RET_ERRNO | _EPERM))
    return b"".join(program)


def _examine(name: str) -> list[bytes]:
    """Instructions for one system call; every path through them returns."""
    code: list[bytes] = []
    for conditions in RULES[name]:
        alternative: list[bytes] = [_op(_RETURN, _RET_ALLOW)]
        for condition in reversed(conditions):
            alternative = [
                _op(_LOAD, _ARGUMENTS + 8 * condition.argument),
                _op(_AND, condition.mask),
                _op(_JUMP_EQUAL, condition.value, 0, len(alternative)),
                *alternative,
            ]
        code += alternative
    return [*code, _op(_RETURN, _RET_ERRNO | (_ENOSYS if name in _ABSENT else _EPERM))]


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
