"""A machine for node checks: a real tree of files in /proc's and /sys's forms, and programs that are run.

`nvidia-smi` is a shell script that prints what lies in a folder, in the form of NVIDIA's own (driver 550).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stoker.core.clock import ManualClock, SystemClock
from stoker.core.node_settings import NodeSettings
from stoker.fleet.nodes.gpu_query import FIELDS
from stoker.fleet.nodes.machine_view import MachineView

_SMI = """#!/bin/sh
folder=$(dirname "$0")/../smi
case "$1" in
--query-gpu=*) file=gpus ;;
--query-remapped-rows=*) file=remaps ;;
--query-compute-apps=*) file=apps ;;
nvlink) file=nvlink ;;
esac
cat "$folder/$file"
[ -f "$folder/code" ] && exit "$(cat "$folder/code")"
exit 0
"""

GPU = {
    "temperature.gpu": "41",
    "clocks.max.sm": "1980",
    "clocks_throttle_reasons.hw_slowdown": "Not Active",
    "power.limit": "700.00",
    "power.default_limit": "700.00",
    "pcie.link.width.current": "16",
    "pcie.link.width.max": "16",
    "ecc.mode.current": "Enabled",
    "ecc.errors.uncorrected.volatile.total": "0",
    "ecc.errors.corrected.volatile.total": "0",
    "driver_version": "550.54.15",
}


@dataclass
class MachineTree:
    """The folder `root`, as /; `bin` is the whole search path beside the system's own."""

    root: Path
    gpus: list[dict[str, str]] = field(default_factory=lambda: [dict(GPU), dict(GPU)])

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def write(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def program(self, name: str, script: str) -> Path:
        self.write(f"bin/{name}", script)
        (self.bin / name).chmod(0o755)
        return self.bin / name

    def process(self, pid: int, name: str, state: str = "S", parent: int = 1, *words: str) -> None:
        self.write(f"proc/{pid}/stat", f"{pid} ({name}) {state} {parent} {pid} {pid} 0 -1 4194560 0 0")
        self.write(f"proc/{pid}/cmdline", "\0".join(words) + "\0")

    def kernel_says(self, *lines: str, at_s: float = 9_990.0) -> None:
        body = "".join(f"3,{n},{int(at_s * 1e6)},-;{line}\n" for n, line in enumerate(lines))
        self.write("dev/kmsg", f"6,0,0,-;Linux version 6.1\n{body}")

    def write_gpus(self) -> None:
        rows = []
        for n, gpu in enumerate(self.gpus):
            said = {"index": str(n), "uuid": f"GPU-{n:08x}", "pci.bus_id": f"00000000:{n:02X}:00.0", **gpu}
            rows.append(", ".join(said[name] for name in FIELDS))
        self.write("smi/gpus", "".join(f"{row}\n" for row in rows))

    def view(self, clock: ManualClock | SystemClock | None = None, **settings: Any) -> MachineView:
        scratch = self.root / "scratch"
        scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin"}
        return MachineView(
            settings=NodeSettings(**settings),
            clock=clock or ManualClock(),
            scratch=scratch,
            environment=environment,
            root=self.root,
        )


def sound_machine(root: Path) -> MachineTree:
    """A machine with two CPUs, two GPUs, one InfiniBand port and nothing wrong."""
    tree = MachineTree(root)
    for name in ("online", "present"):
        tree.write(f"sys/devices/system/cpu/{name}", "0-1\n")
    for n in range(2):
        tree.write(f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq", "3500000\n")
        tree.write(f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_max_freq", "3500000\n")
    tree.write("proc/meminfo", "MemTotal:       65536000 kB\nHardwareCorrupted:     0 kB\n")
    for name in ("ue_count", "ce_count"):
        tree.write(f"sys/devices/system/edac/mc/mc0/{name}", "0\n")
    tree.write("proc/mounts", "/dev/sda1 / ext4 rw,relatime,errors=remount-ro 0 0\nproc /proc proc rw 0 0\n")
    tree.write("proc/uptime", "10000.00 19000.00\n")
    tree.kernel_says("usb 1-1: new device")
    tree.process(1, "init", parent=0)
    tree.process(77, "a (strange) name", parent=1)
    device = "sys/class/net/eth0"
    tree.write(f"{device}/device/vendor", "0x15b3\n")
    tree.write(f"{device}/flags", "0x1003\n")
    tree.write(f"{device}/operstate", "up\n")
    for name, count in {"rx_packets": 10**7, "tx_packets": 10**7, "rx_errors": 3, "tx_errors": 0}.items():
        tree.write(f"{device}/statistics/{name}", f"{count}\n")
    port = "sys/class/infiniband/mlx5_0/ports/1"
    for name, text in {
        "link_layer": "InfiniBand",
        "state": "4: ACTIVE",
        "rate": "400 Gb/sec (4X NDR)",
    }.items():
        tree.write(f"{port}/{name}", f"{text}\n")
    tree.write(f"{port}/counters/link_downed", "0\n")
    for n in range(2):
        tree.write(f"sys/bus/pci/devices/0000:0{n}:00.0/vendor", "0x10de\n")
        tree.write(f"sys/bus/pci/devices/0000:0{n}:00.0/class", "0x030200\n")
    tree.program("nvidia-smi", _SMI)
    tree.write_gpus()
    tree.write("smi/remaps", "0000:00:00.0, 0, 0, No, No\n0000:01:00.0, 2, 0, No, No\n")
    tree.write("smi/apps", "")
    links = "".join(f"\t Link {n}: 26.562 GB/s\n" for n in range(4))
    heads = [f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-{n:08x})\n" for n in range(2)]
    tree.write("smi/nvlink", "".join(head + links for head in heads))
    tree.program("chronyc", "#!/bin/sh\necho 'A29FC87B,10.0.0.1,3,1.5,0.000012,0,0,0,0,0,0,0,64.0,Normal'\n")
    return tree


def without(tree: MachineTree, *paths: str) -> None:
    """Remove files or folders of the tree."""
    for path in paths:
        place = tree.root / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
