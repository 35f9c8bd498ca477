"""Where real ranks of a process group listen: on loopback of their own network, never on all addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RANKS = """
import hmac, os, sys
import torch.distributed as distributed
from pathlib import Path
from stoker.core.isolation import IsolationState, isolate
rank, place = int(sys.argv[1]), sys.argv[2]
if rank == 0:
    assert isolate().state is IsolationState.ISOLATED
    if os.fork() == 0:
        rank = 1
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
store = distributed.PrefixStore("secret name", distributed.FileStore(place, 2))
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
distributed.barrier()
if rank == 0:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                print(words[1].split(":")[0], flush=True)
distributed.barrier()
os._exit(0)
"""
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def test_ranks_listen_on_loopback_only(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANKS, "0", str(tmp_path / "rendezvous")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    listening = done.stdout.split()
    assert listening
    assert set(listening) <= LOOPBACK
