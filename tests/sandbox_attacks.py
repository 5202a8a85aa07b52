"""Programs that try to break out of the sandbox. Run as a script: `python tests/sandbox_attacks.py weak` prints JSON.

Each program prints BROKEN if it gets what it wants. @NAME@ is replaced by something of the host's that it goes for.
Only the standard library is needed, so a user without access to the virtual environment can run it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rewards import sandbox
from rewards.sandbox import Limits, run_script

LIMITS = Limits(seconds=0.25, memory_mb=512, output_bytes=1 << 20)
SECRET = "the-host-secret-8271"

SYSCALL = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
def attempt(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    if result >= 0:
        if name in ("fork", "clone", "vfork") and result == 0:
            os._exit(0)
        print("BROKEN", name, result)
"""

ATTACKS: dict[str, str] = {
    "tcp to localhost": """
import socket
socket.create_connection(("127.0.0.1", @PORT@), timeout=1).send(b"x")
print("BROKEN")
""",
    "udp datagram": """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", @PORT@))
print("BROKEN")
""",
    "abstract unix socket": """
import socket
socket.socket(socket.AF_UNIX).connect("\\0@ABSTRACT@")
print("BROKEN")
""",
    "unix socket by path": """
import socket
socket.socket(socket.AF_UNIX).connect("@DIRECTORY@/socket")
print("BROKEN")
""",
    "datagram pair that addresses the host": """
import socket
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendto(b"x", "\\0@ABSTRACT@")
print("BROKEN")
""",
    "netlink socket": """
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
print("BROKEN")
""",
    "environment of every process": """
import os
for pid in ["self", "1", "@PARENT@", *(p for p in os.listdir("/proc") if p.isdigit())]:
    try:
        if b"@SECRET@" in open(f"/proc/{pid}/environ", "rb").read():
            print("BROKEN", pid)
    except OSError:
        pass
""",
    "own environment": """
import os
if any("@SECRET@" in value or "TOKEN" in name for name, value in os.environ.items()):
    print("BROKEN")
""",
    "memory of the parent": """
for pid in ("@PARENT@", "1", str(__import__("os").getppid())):
    try:
        open(f"/proc/{pid}/mem", "rb").read(1)
    except OSError as error:
        if error.errno == 5:
            print("BROKEN: opened")
        continue
    print("BROKEN")
open("/proc/@PARENT@/maps").read(); print("BROKEN maps")
""",
    "process table": """
import os
if "@PARENT@" in os.listdir("/proc"):
    print("BROKEN")
""",
    "world-readable file of the host": """
print("BROKEN", open("@DIRECTORY@/secret").read())
""",
    "password file": """
for path in ("/etc/shadow", "/etc/passwd", "/root/.bash_history", "@REPOSITORY@/pyproject.toml"):
    try:
        open(path).read()
        print("BROKEN", path)
    except OSError:
        pass
""",
    "write where everybody may": """
open("@DIRECTORY@/left", "w").write("x")
print("BROKEN")
""",
    "change names in a directory of the host": """
import os
for change in (
    lambda: os.rename("@DIRECTORY@/secret", "@DIRECTORY@/moved"), lambda: os.unlink("@DIRECTORY@/secret"),
    lambda: os.mkdir("@DIRECTORY@/left"), lambda: os.symlink("/", "@DIRECTORY@/left"),
    lambda: os.link("@DIRECTORY@/secret", "@DIRECTORY@/left"), lambda: os.chmod("@DIRECTORY@/secret", 0o777),
    lambda: os.truncate("@DIRECTORY@/secret", 0), lambda: os.mkfifo("@DIRECTORY@/left"),
    lambda: os.utime("@DIRECTORY@/secret", (0, 0)), lambda: os.setxattr("@DIRECTORY@/secret", "user.a", b"1"),
):
    try:
        change()
        print("BROKEN")
    except OSError:
        pass
""",
    "fill the disk": """
import os
for place in ("/tmp", "/var/tmp", "/dev/shm", "/dev", "/", "/run", os.getcwd(), "@DIRECTORY@"):
    try:
        with open(place + "/fill", "wb") as file:
            file.write(bytes(1 << 20))
        print("BROKEN", place)
    except OSError:
        pass
""",
    "fill memory files": """
import os
for number in range(60):
    file = os.memfd_create("fill")
    os.write(file, bytes(32 << 20))
    print("BROKEN")
""",
    "grow the source file": """
import os
for number in range(3, 64):
    try:
        os.write(number, b"x" * 100)
        print("BROKEN", number)
    except OSError:
        pass
""",
    "fork bomb": """
import os
for _ in range(400):
    if os.fork() == 0:
        while True:
            pass
    print("BROKEN")
""",
    "daemon that leaves its session": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
print("BROKEN")
""",
    "raw fork, vfork, clone and clone3": SYSCALL
    + """
if X86:
    attempt("fork", 57)
    attempt("clone", 56, 17, 0, 0, 0, 0)
    attempt("clone", 56, 0x100 | 17, 0, 0, 0, 0)
    attempt("fork", 0x40000000 + 57)
else:
    attempt("clone", 220, 17, 0, 0, 0, 0)
arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
attempt("clone", 435, arguments, 88)
""",
    "32-bit system calls": """
import ctypes, mmap, platform
if platform.machine() == "x86_64":
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 2 (fork); int 0x80; ret
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    result = call()
    if result >= 0:
        print("BROKEN", result)
""",
    "another program": """
import os, subprocess
try:
    subprocess.run(["/usr/bin/id"])
    print("BROKEN")
except OSError:
    pass
os.execv("/usr/bin/python3", ["python3", "-c", "print('BROKEN')"])
""",
    "pthreads without end": """
import threading, time
started = 0
try:
    while started < 5000:
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        started += 1
    print("BROKEN", started)
except RuntimeError:
    print("held at", started)
""",
    "touch four gigabytes": """
blocks = []
while len(blocks) < 64:
    blocks.append(bytearray(b"x") * (64 << 20))
print("BROKEN")
""",
    "shared mappings": """
import mmap
maps = []
while len(maps) < 64:
    maps.append(mmap.mmap(-1, 64 << 20))
    maps[-1][::4096] = b"x" * (len(maps[-1]) // 4096)
print("BROKEN")
""",
    "system V memory": SYSCALL
    + """
attempt("shmget", 29 if X86 else 194, 0x7777, 1 << 20, 0o1666)
""",
    "loop deaf to signals": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
    "sleep for ever": """
import time
while True:
    time.sleep(1000)
""",
    "stop itself": """
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
print("BROKEN")
""",
    "endless output": """
while True:
    print("x" * 1000)
""",
    "endless complaints": """
import sys
while True:
    sys.stderr.write("x" * 1000)
""",
    "close everything and stay": """
import os, time
os.closerange(0, 64)
time.sleep(1000)
""",
    "kill the parent": """
import os, signal
for pid in (@PARENT@, os.getppid(), -1, -os.getpgrp(), 0):
    try:
        os.kill(pid, signal.SIGTERM)
        print("BROKEN", pid)
    except OSError:
        pass
""",
    "signal the parent through a file's owner": """
import fcntl, os
reader, writer = os.pipe()
fcntl.fcntl(reader, 8, @PARENT@)
print("BROKEN owner")
""",
    "signal number of a file": """
import fcntl, os
reader, writer = os.pipe()
fcntl.fcntl(reader, 10, 9)
print("BROKEN")
""",
    "outlive the parent": SYSCALL
    + """
if libc.prctl(1, 0, 0, 0, 0) == 0:
    print("BROKEN")
""",
    "become dumpable": SYSCALL
    + """
if libc.prctl(4, 1, 0, 0, 0) == 0:
    print("BROKEN")
""",
    "trace and read other processes": SYSCALL
    + """
attempt("ptrace", 101 if X86 else 117, 16, @PARENT@, 0, 0)
attempt("process_vm_readv", 310 if X86 else 270, @PARENT@, 0, 0, 0, 0, 0)
attempt("pidfd_open", 434, @PARENT@, 0)
attempt("kcmp", 312 if X86 else 272, os.getpid(), @PARENT@, 0, 0, 0)
""",
    "new namespaces": SYSCALL
    + """
for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000):
    attempt("unshare", 272 if X86 else 97, flag)
attempt("mount", 165 if X86 else 40, b"none", b"/tmp", b"tmpfs", 0, 0)
attempt("chroot", 161 if X86 else 51, b"/")
attempt("setns", 308 if X86 else 268, 0, 0)
""",
    "dangerous corners of the kernel": SYSCALL
    + """
attempt("io_uring_setup", 425, 8, (ctypes.c_char * 120)())
attempt("bpf", 321 if X86 else 280, 0, (ctypes.c_char * 120)(), 120)
attempt("perf_event_open", 298 if X86 else 241, (ctypes.c_char * 120)(), 0, -1, -1, 0)
attempt("userfaultfd", 323 if X86 else 282, 1)
attempt("add_key", 248 if X86 else 217, b"user", b"left", b"x", 1, -3)
attempt("keyctl", 250 if X86 else 219, 0, -3, 0)
attempt("memfd_secret", 447, 0)
attempt("inotify_init1", 294 if X86 else 26, 0)
attempt("mq_open", 240 if X86 else 180, b"left", 0o102, 0o666, 0)
attempt("openat2", 437, -100, b"/tmp/left", (ctypes.c_uint64 * 3)(0o101, 0o666, 0), 24)
""",
    "become root": """
import os
for change in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        change()
        print("BROKEN")
    except OSError:
        pass
if 0 in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) or 0 in os.getgroups():
    print("BROKEN", os.getgroups())
""",
    "limits of the parent": """
import resource
print("BROKEN", resource.prlimit(@PARENT@, resource.RLIMIT_NOFILE, (3, 3)))
""",
    "own limits raised": """
import resource
for which in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
    try:
        resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print("BROKEN")
    except (OSError, ValueError):
        pass
""",
    "slow the others down": """
import os
for change in (
    lambda: os.setpriority(os.PRIO_PROCESS, @PARENT@, 19),
    lambda: os.sched_setaffinity(@PARENT@, {0}),
    lambda: os.setpgid(0, 0),
    lambda: os.setsid(),
):
    try:
        change()
        print("BROKEN")
    except OSError:
        pass
""",
    "the control socket": """
import os, socket, stat
for number in range(64):
    try:
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            print("BROKEN", number)
    except OSError:
        pass
""",
    "crash of the interpreter": """
import ctypes
ctypes.string_at(1)
""",
    "code in an exit handler": """
import atexit
@atexit.register
def stay():
    while True:
        pass
""",
    "thread that does not end": """
import threading
def stay():
    while True:
        pass
threading.Thread(target=stay).start()
""",
}


def attack(mode: str, name: str, host: dict[str, str]) -> str:
    """What an attack achieved; "" if it held, and if the sandbox works afterwards."""
    source = ATTACKS[name]
    for key, value in host.items():
        source = source.replace(f"@{key}@", value)
    run = run_script(source, b"", sandbox=mode, limits=LIMITS)
    if b"BROKEN" in run.output:
        return run.output.decode(errors="replace")[:300]
    if b"SyntaxError" in run.errors or b"NameError" in run.errors:
        return run.errors.decode(errors="replace")[-300:]  # the attack itself is wrong
    after = run_script("print(6 * 7)", b"", sandbox=mode, limits=LIMITS)
    return "" if after.output == b"42\n" else f"broken afterwards: {after}"


def attack_all(mode: str) -> dict[str, str]:
    """Every attack under `mode` as the present user: its name and what it achieved."""
    os.environ["SANDBOX_ATTACK_TOKEN"] = SECRET
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        directory.chmod(0o777)
        (directory / "secret").write_text(SECRET)
        (directory / "secret").chmod(0o666)
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sockets = {"abstract": f"\0r1-attack-{os.getpid()}", "path": str(directory / "socket")}
        for address in sockets.values():
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        host = {
            "PORT": str(server.getsockname()[1]),
            "ABSTRACT": sockets["abstract"][1:],
            "DIRECTORY": str(directory),
            "PARENT": str(os.getpid()),
            "SECRET": SECRET,
            "REPOSITORY": str(Path(__file__).resolve().parents[1]),
        }
        with ThreadPoolExecutor(4) as threads:
            found = dict(zip(ATTACKS, threads.map(lambda name: attack(mode, name, host), ATTACKS), strict=True))
        left = sorted(path.name for path in directory.iterdir())
        found["nothing left in the directory"] = "" if left == ["secret", "socket"] else str(left)
        secret = (directory / "secret").read_text()
        found["the secret is unchanged"] = "" if secret == SECRET else secret
    sandbox.close()
    return found


if __name__ == "__main__":
    print(json.dumps(attack_all(sys.argv[1])))
