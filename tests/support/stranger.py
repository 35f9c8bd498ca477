"""A program that was handed a rank's key socket, and asks for a key: `stranger.py HOW SOCKET KEK`.

The rank's secret, if it was handed over too, is on standard input. Prints what came of it, as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys

from stoker.core.errors import StokerError
from stoker.keys.agent_client import AgentKeySource
from stoker.keys.agent_protocol import encode_hello
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey


def ask(how: str, sock: socket.socket, kek: str) -> dict[str, object]:
    given = sys.stdin.buffer.read(32)
    secret = SecretKey.adopt(bytearray(given)) if len(given) == 32 else SecretKey.generate()
    try:
        if how == "forged":
            body = bytes(encode_hello(secret))
            credentials = struct.pack("3i", os.getppid(), os.getuid(), os.getgid())
            frame = struct.pack(">I", len(body)) + body
            sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
            return {"sent": len(frame)}
        key, _ = AgentKeySource(sock, secret).new_partition_key(KekRef.parse(kek), Purpose.CHECKPOINT)
        key.wipe()
        return {"key": True}
    except StokerError as error:
        return {"error": error.id, "message": error.message}
    except OSError as error:
        return {"error": type(error).__name__}


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), sys.argv[3])))
