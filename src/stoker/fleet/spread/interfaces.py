"""Which of this node's network interfaces other nodes reach it by."""

from __future__ import annotations

import contextlib
import fcntl
import platform
import socket
import struct
from typing import Final

from stoker.fleet.errors import AgentFailed

_SIOCGIFADDR: Final = 0x8915
_HINT: Final = 'Name the interface in the run file: [launch] interface = "ib0".'


def interface_of(node: str) -> str:
    """The interface that has the address of `node`'s name, or of this host's. Raises AgentFailed."""
    wanted = {address for name in (node, platform.node()) for address in _addresses(name)}
    found = [name for _, name in socket.if_nameindex() if _address_of(name) in wanted]
    outward = [name for name in found if name != "lo"]
    if not outward:
        raise AgentFailed(
            f"No network interface of {platform.node()} has the address of the name {node}, so it is not "
            "known which one the other nodes reach.",
            hint=_HINT,
        )
    return outward[0]


def _addresses(name: str) -> set[str]:
    with contextlib.suppress(OSError):
        return {str(each[4][0]) for each in socket.getaddrinfo(name, None, socket.AF_INET)}
    return set()


def _address_of(interface: str) -> str:
    """Its IPv4 address; empty without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, contextlib.suppress(OSError):
        answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    return ""
