"""What another process of the same user gets out of one that holds a key: nothing. ATK-032."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOLDER = """
import ctypes, encodings.idna, os, resource, sys
from stoker.keys.memory import harden_process
from stoker.keys.secret import SecretKey
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
if sys.argv[1] == "hardened":
    harden_process()
key = SecretKey.adopt(bytearray(bytes(x ^ 0x5A for x in bytes.fromhex(sys.argv[2]))))
print(os.getpid(), key.locked, flush=True)
sys.stdin.readline()
ctypes.string_at(0)
"""
"""Holds a key that is nowhere as it is but in its memory, until a line comes; then it dies by SIGSEGV."""

READER = """
import ctypes, os, sys
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
pid, told = int(sys.argv[1]), []
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
told.append("attached" if libc.ptrace(0x4206, pid, None, None) == 0 else "refused")
for leaf in ("mem", "environ", "auxv"):
    try:
        open(f"/proc/{pid}/{leaf}", "rb").close()
        told.append("opened")
    except OSError:
        told.append("refused")
print(*told)
"""
MASKED = bytes(range(100, 132))
KEY = bytes(each ^ 0x5A for each in MASKED)


@contextmanager
def holding(how: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    folder.chmod(0o777)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, how, MASKED.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().split()[0])
    finally:
        process.kill()
        process.communicate()


def what_another_process_gets(pid: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", READER, str(pid)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(("how", "told"), [("hardened", "refused"), ("open", "opened")])
def test_atk_032_nobody_attaches_to_or_reads_a_process_that_holds_a_key(
    tmp_path: Path, how: str, told: str
) -> None:
    """A process that is not hardened shows that the attempt is a real one."""
    with holding(how, tmp_path) as (_, pid):
        attached, *rest = what_another_process_gets(pid)
    assert rest == [told] * 3
    assert attached == ("refused" if how == "hardened" else "attached")


def test_atk_032_a_crash_leaves_no_core_and_the_key_is_in_no_file(tmp_path: Path) -> None:
    with holding("hardened", tmp_path) as (process, pid):
        limits = Path(f"/proc/{pid}/limits").read_text()
        (core,) = [line for line in limits.splitlines() if "core file" in line]
        assert core.split()[4:6] == ["0", "0"]
        locked = Path(f"/proc/{pid}/status").read_text()
        assert int(locked.partition("VmLck:")[2].split()[0]) > 0  # the page of the key stays out of swap
        process.communicate("die\n")
        assert process.returncode == -signal.SIGSEGV
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY in path.read_bytes()]
    assert not [path for path in tmp_path.iterdir() if "core" in path.name]
