"""Sockets that NCCL needs are let through an isolated process's filter, and no others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stoker.core.isolation import listening_outside

PROGRAM = """
import json, os, socket, sys
from stoker.core.isolation import Outside, isolate, probe
from stoker.core.landlock import writing_only_in
from stoker.core.result import plain
port, name, path, datagrams = sys.argv[1:]
allowed = datagrams == "yes"
made = isolate(datagrams=allowed)

def opens(family, kind):
    try:
        socket.socket(family, kind).close()
    except OSError as error:
        return type(error).__name__
    return "opened"

def exchange():
    # As NCCL does: datagrams between abstract names of this network.
    one, two = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    one.bind("\\0stoker-peer")
    two.sendto(b"over the network", "\\0stoker-peer")
    return one.recv(64).decode()

kinds = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "datagram": socket.SOCK_DGRAM,
         "datagram with flags": socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK}
told = {kind: opens(socket.AF_UNIX, number) for kind, number in kinds.items()}
told["tcp"] = opens(socket.AF_INET, socket.SOCK_STREAM)
told["packet"] = opens(socket.AF_PACKET, socket.SOCK_DGRAM)
told["peer"] = exchange() if allowed else ""
ruleset = writing_only_in([], no_socket_files=True)
outside = Outside(int(port), name, path)
told["probe"] = plain(probe(outside, datagrams=allowed, ruleset=ruleset))
print(json.dumps([plain(made), told]))
"""


@pytest.mark.parametrize("datagrams", ["no", "yes"])
def test_datagrams_between_names_are_let_through_only_where_they_are_asked_for(datagrams: str) -> None:
    with listening_outside() as outside:
        where = (str(outside.port), outside.name, outside.path)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *where, datagrams], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    made, told = json.loads(done.stdout)
    assert made["state"] == "isolated"
    refused, allowed = "PermissionError", "opened" if datagrams == "yes" else "PermissionError"
    assert told["stream"] == told["seqpacket"] == told["packet"] == refused
    assert told["datagram"] == told["datagram with flags"] == allowed
    assert told["tcp"] == "opened"
    assert told["peer"] == ("over the network" if datagrams == "yes" else "")


def test_a_socket_file_that_datagrams_reach_is_found_unless_the_kernel_closes_it() -> None:
    from stoker.core.landlock import _RESOLVES_UNIX_SINCE, _version

    with listening_outside() as outside:
        where = (str(outside.port), outside.name, outside.path)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *where, "yes"], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)[1]["probe"]
    if _version() >= _RESOLVES_UNIX_SINCE:
        assert found["state"] == "isolated"
    else:
        assert found == {"state": "open", "reason": "reached: a socket file, by datagrams"}
