"""A network where processes reach one another and nothing else: promise 5. See docs/design/fleet.md.

A process moves into a fresh network namespace that has only a loopback device, tries to get out in every way
it knows, and tells the result as an event. Where the platform refuses the namespace, that is the result.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import secrets
import socket
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.landlock import hold_to
from stoker.core.seccomp import refuse_ways_out

_CLONE_NEWUSER: Final = 0x1000_0000
_CLONE_NEWNET: Final = 0x4000_0000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_PROBE_TIMEOUT_S: Final = 0.5

_OUTSIDE_V4: Final = ("192.0.2.1", 9)
_OUTSIDE_V6: Final = ("2001:db8::1", 9)
"""Addresses of documentation (RFC 5737, RFC 3849): no machine has them, so a probe disturbs nobody. A way out
shows as a packet that is accepted for sending; without one the kernel answers "network is unreachable"."""

_NO_WAY: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ECONNREFUSED}
)

_DISCARD: Final = 9
_NO_HYPERVISOR: Final = _NO_WAY | {errno.EPERM, errno.ENODEV, errno.EACCES, errno.EPROTONOSUPPORT}


class IsolationState(enum.StrEnum):
    """What the probe found."""

    ISOLATED = "isolated"
    """Ranks reach one another and nothing else."""

    OPEN = "open"
    """Ranks can reach a network."""

    REFUSED = "refused"
    """The platform does not let the agent make a network namespace; ranks can reach a network."""


class Closing(enum.StrEnum):
    """Whether preparing goes on where the platform lets nobody close a process's network."""

    WHEN_POSSIBLE = "when_possible"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Isolation:
    """The result of a probe, with what was found or why it could not be."""

    state: IsolationState
    reason: str


@dataclass(frozen=True, slots=True)
class Outside:
    """Listeners that an isolated process must not reach: a TCP port of the machine's loopback, an abstract
    name, and a socket file; no path where there is none."""

    port: int
    name: str
    path: str = ""


class NamespaceRefused(OSError):
    """The kernel, or a policy of this machine, does not allow a network namespace."""


def isolate(*, loopback: bool = True, datagrams: bool = False) -> Isolation:
    """Move this process into a network of its own, if the platform lets it; the caller probes afterwards.

    The process must have a single thread. Root does it directly, others through a user namespace. Without
    `loopback` it reaches not even itself. Calls that would lead around the namespace are refused from then on
    (core/seccomp.py), but for AF_UNIX sockets of `datagrams`.
    """
    if not sys.platform.startswith("linux"):
        return Isolation(IsolationState.REFUSED, f"{sys.platform} has no network namespaces")
    try:
        _enter_namespace()
        if loopback:
            _bring_loopback_up()
        refuse_ways_out(datagrams=datagrams)
    except OSError as error:
        return Isolation(IsolationState.REFUSED, f"a network namespace was refused: {error.strerror}")
    return Isolation(IsolationState.ISOLATED, "only a loopback device")


def _enter_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        try:
            _unshare(_CLONE_NEWNET)
            return
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
    _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(ctypes.c_int(flags)) != 0:
        code = ctypes.get_errno()
        raise NamespaceRefused(code, os.strerror(code))


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        (flags,) = struct.unpack_from("h", request, 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


NO_LOOPBACK: Final = "no way out was found, and the loopback of the ranks works no longer"


def probe(
    outside: Outside | None,
    *,
    loopback: bool = True,
    begun: bool = False,
    processes: Iterable[int] = (),
    datagrams: bool = False,
    ruleset: int | None = None,
) -> Isolation:
    """Try to get out in each way; `outside` are listeners of the supervisor, or of another parent.

    `processes` are looked at as well: they must be in this process's network. Where they may make sockets for
    `datagrams`, a socket file is tried by one in a child that is held to `ruleset`, as they are. ISOLATED
    only when everything failed and, with `loopback`, loopback works; otherwise OPEN with the ways out. Once
    processes have `begun` there, a loopback that works no longer is no way out: it is told as NO_LOOPBACK.
    """
    ways = [
        *_devices(),
        *_sends("UDP over IPv4", socket.AF_INET, socket.SOCK_DGRAM, _OUTSIDE_V4),
        *_sends("UDP over IPv6", socket.AF_INET6, socket.SOCK_DGRAM, _OUTSIDE_V6),
        *_sends("TCP over IPv4", socket.AF_INET, socket.SOCK_STREAM, _OUTSIDE_V4),
        *_sends("TCP over IPv6", socket.AF_INET6, socket.SOCK_STREAM, _OUTSIDE_V6),
        *(_listeners(outside) if outside is not None else ()),
        *(_datagrams(outside, ruleset) if datagrams and outside is not None else ()),
        *_resolves(),
        *_hypervisor(),
        *_strays(processes),
    ]
    if ways:
        return Isolation(IsolationState.OPEN, "reached: " + ", ".join(ways))
    if not loopback:
        return Isolation(IsolationState.ISOLATED, "no network at all; no way out was found")
    if not _loopback_works():
        if begun:
            return Isolation(IsolationState.ISOLATED, NO_LOOPBACK)
        return Isolation(IsolationState.OPEN, "ranks could not reach one another either")
    return Isolation(IsolationState.ISOLATED, "only peers on this node are reached; no way out was found")


def _listeners(outside: Outside) -> Iterator[str]:
    yield from _connects("the machine's loopback", socket.AF_INET, ("127.0.0.1", outside.port))
    yield from _connects("an abstract socket", socket.AF_UNIX, b"\0" + outside.name.encode())
    if outside.path:
        yield from _connects("a socket file", socket.AF_UNIX, outside.path.encode())


def _datagrams(outside: Outside, ruleset: int | None) -> Iterator[str]:
    """Datagrams to a socket file, tried in a child that is held to what ranks are held to."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if ruleset is not None:
                hold_to(ruleset)
            code = int(_reached_by_datagram(outside.path))
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        yield "a socket file, by datagrams"


def _reached_by_datagram(path: str) -> bool:
    """A listener for streams answers that it is one: then it was reached."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(path)
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.EACCES)
    return True


def _hypervisor() -> Iterator[str]:
    """Sockets to the hypervisor, which no namespace closes; any answer of it, or silence, is a way out."""
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        return
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PROBE_TIMEOUT_S)
            sock.connect((socket.VMADDR_CID_HOST, _DISCARD))
    except OSError as error:
        if not isinstance(error, TimeoutError) and error.errno in _NO_HYPERVISOR:
            return
    yield "the hypervisor"


def _strays(processes: Iterable[int]) -> Iterator[str]:
    """Processes in another network; those that may not be looked at, or have ended, are passed over."""
    for pid in processes:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink():
                yield f"process {pid} is in another network"


def _devices() -> Iterator[str]:
    for _, name in socket.if_nameindex():
        if name != "lo" and _is_up(name):
            yield f"network device {name}"


def _is_up(name: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", name.encode()[:15], 0))
    (flags,) = struct.unpack_from("h", request, 16)
    return bool(flags & _IFF_UP)


def _sends(
    what: str, family: socket.AddressFamily, kind: socket.SocketKind, address: tuple[str, int]
) -> Iterator[str]:
    """A way out exists unless the kernel says at once that there is none; silence counts as a way out."""
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(_PROBE_TIMEOUT_S)
            sock.connect(address)
            if kind is socket.SOCK_DGRAM:
                sock.send(b"probe")
    except TimeoutError:
        yield what
    except OSError as error:
        if error.errno not in _NO_WAY:
            yield f"{what} ({error.strerror})"
    else:
        yield what


def _connects(what: str, family: socket.AddressFamily, address: tuple[str, int] | bytes) -> Iterator[str]:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PROBE_TIMEOUT_S)
            sock.connect(address)
    except OSError:
        return
    yield what


def _resolves() -> Iterator[str]:
    """Ask the first name server that the machine names; a reply, or silence, means that it was reached."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text(errors="replace").splitlines():
            words = line.split()
            if words[:1] == ["nameserver"] and len(words) > 1:
                family = socket.AF_INET6 if ":" in words[1] else socket.AF_INET
                if not words[1].startswith("127."):
                    yield from _sends("a name server", family, socket.SOCK_DGRAM, (words[1], 53))
                return


def _loopback_works() -> bool:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(_PROBE_TIMEOUT_S)
            with socket.create_connection(server.getsockname(), timeout=_PROBE_TIMEOUT_S):
                server.accept()[0].close()
    except OSError:
        return False
    return True


MAX_SOCKET_PATH: Final = 100
"""Linux takes 107 bytes for the path of a socket; see unix(7)."""


@contextlib.contextmanager
def listening_outside() -> Iterator[Outside]:
    """Listeners in this network that an isolated process must not reach: a TCP port, a name, a file."""
    name = f"stoker-probe-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        path = ""
        if sys.platform.startswith("linux"):
            room = MAX_SOCKET_PATH - len("/abcdefgh/s")
            folder = tempfile.gettempdir() if len(os.fsencode(tempfile.gettempdir())) <= room else "/tmp"  # noqa: S108
            path = f"{stack.enter_context(tempfile.TemporaryDirectory(prefix='', dir=folder))}/s"
            for place in (b"\0" + name.encode(), path.encode()):
                listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                listener.bind(place)
                listener.listen(1)
        yield Outside(int(tcp.getsockname()[1]), name, path)
