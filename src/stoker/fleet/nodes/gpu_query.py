"""What `nvidia-smi` says of the GPUs, asked once for all checks. Nothing here judges.

A field that a GPU does not have is None, never zero; a table that is no table is Unreadable.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Final

from stoker.fleet.nodes.machine_view import Absent, MachineView, Output, Unreadable, read_text

FIELDS: Final = (
    "index",
    "uuid",
    "pci.bus_id",
    "driver_version",
    "temperature.gpu",
    "clocks.max.sm",
    "clocks_throttle_reasons.hw_slowdown",
    "power.limit",
    "power.default_limit",
    "pcie.link.width.current",
    "pcie.link.width.max",
    "ecc.mode.current",
    "ecc.errors.uncorrected.volatile.total",
    "ecc.errors.corrected.volatile.total",
)
"""In this order; each has been known to nvidia-smi since driver 450."""

REMAP_FIELDS: Final = (
    "gpu_bus_id",
    "remapped_rows.correctable",
    "remapped_rows.uncorrectable",
    "remapped_rows.pending",
    "remapped_rows.failure",
)

MAX_GPUS: Final = 256
_UNSAID: Final = re.compile(r"\[?(N/A|Not Supported|Requested functionality.*|Not Available)\]?", re.I)
_NVIDIA: Final = "0x10de"
_DISPLAY_CLASS: Final = "0x03"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. None is what the GPU does not tell."""

    index: int
    uuid: str
    bus: str
    driver: str
    temperature_c: float | None
    clock_max_mhz: float | None
    slowed_down: bool | None
    power_limit_w: float | None
    power_default_w: float | None
    pcie_width: float | None
    pcie_width_max: float | None
    ecc: bool | None
    uncorrected: float | None
    corrected: float | None


@dataclass(frozen=True, slots=True)
class Remaps:
    """The remapped rows of one GPU's memory."""

    bus: str
    correctable: float | None
    uncorrectable: float | None
    pending: bool | None
    failure: bool | None


def gpus_of(view: MachineView) -> tuple[Gpu, ...]:
    """Every GPU that the driver tells. Raises Absent, Unreadable."""
    return view.shared("gpus", lambda: _ask_gpus(view))


def _ask_gpus(view: MachineView) -> tuple[Gpu, ...]:
    query = f"--query-gpu={','.join(FIELDS)}"
    return parse_gpus(_asked(view, "nvidia-smi", query, "--format=csv,noheader,nounits"))


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The table of `--query-gpu` with FIELDS. Raises Unreadable, naming the line."""
    found = []
    for row in rows_of(text, len(FIELDS)):
        number = _number(row[0])
        if number is None or not row[1].startswith("GPU-"):
            raise Unreadable(f"nvidia-smi printed {', '.join(row)[:80]!a}")
        found.append(
            Gpu(
                index=int(number),
                uuid=row[1],
                bus=row[2],
                driver=row[3],
                temperature_c=_number(row[4]),
                clock_max_mhz=_number(row[5]),
                slowed_down=_flag(row[6], "Active", "Not Active"),
                power_limit_w=_number(row[7]),
                power_default_w=_number(row[8]),
                pcie_width=_number(row[9]),
                pcie_width_max=_number(row[10]),
                ecc=_flag(row[11], "Enabled", "Disabled"),
                uncorrected=_number(row[12]),
                corrected=_number(row[13]),
            )
        )
    return tuple(found)


def remaps_of(view: MachineView) -> tuple[Remaps, ...]:
    """The remapped rows of every GPU. Raises Absent, Unreadable."""
    query = f"--query-remapped-rows={','.join(REMAP_FIELDS)}"
    rows = rows_of(_asked(view, "nvidia-smi", query, "--format=csv,noheader,nounits"), len(REMAP_FIELDS))
    return tuple(Remaps(row[0], _number(row[1]), _number(row[2]), _yes(row[3]), _yes(row[4])) for row in rows)


def compute_processes(view: MachineView) -> list[str]:
    """`name (pid)` of whatever computes on a GPU. Raises Absent, Unreadable."""
    text = _asked(view, "nvidia-smi", "--query-compute-apps=pid,process_name", "--format=csv,noheader")
    return [f"{row[1]} ({row[0]})" for row in rows_of(text, 2)]


def nvlinks_of(view: MachineView) -> dict[int, list[str]]:
    """By GPU index what `nvidia-smi nvlink --status` says of each link. Raises Absent, Unreadable."""
    found: dict[int, list[str]] = {}
    links: list[str] | None = None
    for line in _asked(view, "nvidia-smi", "nvlink", "--status").splitlines():
        if head := re.match(r"GPU (\d{1,3}):", line):
            links = found.setdefault(int(head[1]), [])
        elif links is not None and (link := re.match(r"\s+Link (\d{1,3}): (.{1,40})$", line)):
            links.append(link[2].strip())
        elif links is not None and "inactive" in line.lower():
            links.append("<inactive>")
    if not found:
        raise Absent("nvidia-smi tells of no NVLink")
    return found


def pci_devices(view: MachineView) -> int:
    """NVIDIA's GPUs on the PCI bus, whether a driver has them or not."""
    count = 0
    for device in view.path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(Absent, Unreadable):
            of_nvidia = read_text(device / "vendor") == _NVIDIA
            count += of_nvidia and read_text(device / "class").startswith(_DISPLAY_CLASS)
    return count


def rows_of(text: str, columns: int) -> list[list[str]]:
    """Comma-separated rows without a heading. Raises Unreadable for a row of another width."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    for row in rows:
        if len(row) != columns:
            raise Unreadable(f"nvidia-smi printed {', '.join(row)[:80]!a}")
    if len(rows) > MAX_GPUS:
        raise Unreadable(f"nvidia-smi printed {len(rows)} lines")
    return rows


def _asked(view: MachineView, *argv: str) -> str:
    output: Output = view.command(*argv)
    if output.code != 0:
        said = output.text.strip().splitlines()[:1] or ["nothing"]
        raise Unreadable(f"{argv[0]} ended with {output.code} and said {said[0][:160]}")
    return output.text


def _number(cell: str) -> float | None:
    if _UNSAID.fullmatch(cell):
        return None
    if not re.fullmatch(r"-?\d{1,15}(\.\d{1,6})?", cell):
        raise Unreadable(f"nvidia-smi printed {cell[:40]!a} where a number was asked for")
    return float(cell)


def _flag(cell: str, on: str, off: str) -> bool | None:
    if _UNSAID.fullmatch(cell):
        return None
    if cell not in (on, off):
        raise Unreadable(f"nvidia-smi printed {cell[:40]!a} where {on} or {off} was asked for")
    return cell == on


def _yes(cell: str) -> bool | None:
    return _flag({"1": "Yes", "0": "No"}.get(cell, cell), "Yes", "No")
