from __future__ import annotations

import re
from pathlib import Path

import pytest

from rewards.sandbox_seccomp import ALLOWED, EXAMINED, RULES, build

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
FORBIDDEN = [
    "fork",
    "vfork",
    "execve",
    "execveat",
    "kill",
    "tkill",
    "tgkill",
    "ptrace",
    "socket",
    "connect",
    "bind",
    "listen",
    "accept",
    "sendmsg",
    "recvmsg",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "chroot",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "memfd_create",
    "shmget",
    "creat",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "mkdir",
    "mkdirat",
    "symlink",
    "link",
    "linkat",
    "truncate",
    "ftruncate",
    "fallocate",
    "chmod",
    "fchmod",
    "chown",
    "setuid",
    "setgid",
    "setgroups",
    "setresuid",
    "setsid",
    "setpgid",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "keyctl",
    "add_key",
    "pidfd_open",
    "setpriority",
    "sched_setaffinity",
    "capset",
    "personality",
    "seccomp",
]


def run(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = ARCH["x86_64"]) -> int:
    """What the filter answers: a classic BPF machine of the five instructions that it uses."""
    data = {0: number, 4: arch}
    for index, value in enumerate(arguments):
        data[16 + 8 * index], data[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
    code = [(int.from_bytes(i[:2], "little"), i[2], i[3], int.from_bytes(i[4:], "little")) for i in _split(program)]
    at = accumulator = 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == 0x20:
            accumulator = data.get(operand, 0)
        elif operation == 0x54:
            accumulator &= operand
        elif operation == 0x15:
            at += if_true if accumulator == operand else if_false
        else:
            assert operation == 0x06
            return operand


def _split(program: bytes) -> list[bytes]:
    return [program[at : at + 8] for at in range(0, len(program), 8)]


@pytest.mark.parametrize("machine", ARCH)
def test_every_allowed_call_is_allowed(machine: str) -> None:
    program = build(machine)
    for name, numbers in ALLOWED.items():
        number = numbers[COLUMN[machine]]
        if number is not None:
            assert run(program, number, arch=ARCH[machine]) == ALLOW, name


@pytest.mark.parametrize("machine", ARCH)
def test_everything_else_is_refused(machine: str) -> None:
    program = build(machine)
    known = {numbers[COLUMN[machine]] for numbers in (*ALLOWED.values(), *EXAMINED.values())}
    for number in [n for n in range(1024) if n not in known] + [0x40000000 + 57, 0xFFFFFFFF]:
        assert run(program, number, arch=ARCH[machine]) == EPERM, number


def test_no_forbidden_call_is_listed() -> None:
    assert not set(FORBIDDEN) & (ALLOWED.keys() | EXAMINED.keys())
    assert RULES.keys() == EXAMINED.keys()


@pytest.mark.parametrize("machine", ARCH)
def test_arguments_decide(machine: str) -> None:
    program = build(machine)

    def ask(name: str, *arguments: int) -> int:
        number = EXAMINED[name][COLUMN[machine]]
        assert number is not None
        return run(program, number, arguments, ARCH[machine])

    read_only, write_only, read_write, create, truncate = 0, 1, 2, 0o100, 0o1000
    cloexec = 0o2000000
    assert ask("openat", 0, 0, read_only | cloexec) == ALLOW
    for flags in (write_only, read_write, create, truncate, 0o20200000 | read_write, create | cloexec):
        assert ask("openat", 0, 0, flags) == EPERM
    assert ask("clone", 0x3D0F00) == ALLOW  # what pthread_create asks for
    for flags in (17, 0, 0x4000 | 17, 0x10000000 | 17, 0x01200011):
        assert ask("clone", flags) == EPERM
    assert ask("clone3") == ENOSYS
    assert ask("openat2") == ENOSYS
    assert ask("socketpair", 1, 1 | cloexec) == ALLOW
    assert ask("socketpair", 1, 2) == EPERM
    assert ask("socketpair", 2, 1) == EPERM
    assert ask("sendto", 3, 4, 5, 6, 0, 0) == ALLOW
    assert ask("sendto", 3, 4, 5, 6, 7, 16) == EPERM
    assert ask("fcntl", 3, 4) == ALLOW
    for command in (8, 10, 15, 1024, 1031, 1033):
        assert ask("fcntl", 3, command) == EPERM
    assert ask("ioctl", 3, 0x5401) == ALLOW
    for request in (0x5412, 0x8901, 0x5452):
        assert ask("ioctl", 3, request) == EPERM
    assert ask("prctl", 15) == ALLOW
    for option in (1, 4, 22, 38, 0x59616D61):
        assert ask("prctl", option) == EPERM
    assert ask("prlimit64", 0, 9) == ALLOW
    assert ask("prlimit64", 1234, 9) == EPERM


def test_another_architecture_is_killed() -> None:
    assert run(build("x86_64"), 0, arch=0x40000003) == KILL
    assert run(build("aarch64"), 63, arch=ARCH["x86_64"]) == KILL


def test_unknown_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="no system call filter for riscv64"):
        build("riscv64")


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_agree_with_the_kernels_headers(machine: str, header: str) -> None:
    path = Path(header)
    if not path.exists():
        pytest.skip(f"the kernel's headers are not installed ({header})")
    numbers = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    for name, listed in {**ALLOWED, **EXAMINED}.items():
        number = listed[COLUMN[machine]]
        assert number is None or numbers[name] == number, name
