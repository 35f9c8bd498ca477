"""Lines by which kernels, schedulers, checks and libraries tell what is wrong, and what each means.

In order: the first that matches counts. Sources and what was left out are in docs/design/attribution.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stoker.fleet.taxonomy import Component, FailureKind, Meaning, Source, TextRule

_K, _C = FailureKind, Component

XID: Final = {
    13: Meaning(_K.USER_ERROR, _C.GPU, 0.5),
    31: Meaning(_K.USER_ERROR, _C.GPU, 0.5),
    43: Meaning(_K.USER_ERROR, _C.GPU, 0.4),
    45: Meaning(_K.UNKNOWN, _C.GPU, 0.1),
    48: Meaning(_K.HARDWARE, _C.GPU_MEMORY, 0.95),
    61: Meaning(_K.HARDWARE, _C.GPU, 0.8),
    62: Meaning(_K.HARDWARE, _C.GPU, 0.8),
    63: Meaning(_K.HARDWARE, _C.GPU_MEMORY, 0.6),
    64: Meaning(_K.HARDWARE, _C.GPU_MEMORY, 0.95),
    68: Meaning(_K.HARDWARE, _C.GPU, 0.6),
    69: Meaning(_K.HARDWARE, _C.GPU, 0.6),
    74: Meaning(_K.HARDWARE, _C.NVLINK, 0.9),
    79: Meaning(_K.HARDWARE, _C.PCIE, 0.95),
    92: Meaning(_K.HARDWARE, _C.GPU_MEMORY, 0.8),
    94: Meaning(_K.HARDWARE, _C.GPU_MEMORY, 0.9),
    95: Meaning(_K.HARDWARE, _C.GPU_MEMORY, 0.95),
    109: Meaning(_K.SYSTEM_SOFTWARE, _C.DRIVER, 0.6),
    110: Meaning(_K.HARDWARE, _C.GPU, 0.8),
    119: Meaning(_K.HARDWARE, _C.GPU, 0.85),
    120: Meaning(_K.HARDWARE, _C.GPU, 0.85),
    121: Meaning(_K.HARDWARE, _C.NVLINK, 0.6),
    140: Meaning(_K.HARDWARE, _C.GPU_MEMORY, 0.9),
    143: Meaning(_K.HARDWARE, _C.GPU, 0.8),
}
"""NVIDIA's Xid codes; 45 is what other failures do to a process, so it says nothing by itself."""

UNKNOWN_XID: Final = Meaning(_K.SYSTEM_SOFTWARE, _C.DRIVER, 0.4)

_KERNEL: Final = (
    (
        r"\bout of memory: killed process|\boom-kill:|memory cgroup out of memory",
        _K.SYSTEM_SOFTWARE,
        _C.HOST_MEMORY,
        0.8,
    ),
    (r"EDAC .*\bUE\b|uncorrect(?:ed|able) .*memory|Memory failure: 0x", _K.HARDWARE, _C.HOST_MEMORY, 0.95),
    (r"EDAC .*\bCE\b", _K.HARDWARE, _C.HOST_MEMORY, 0.3),
    (
        r"mce: \[Hardware Error\]|Machine check events logged|soft lockup|watchdog: BUG",
        _K.HARDWARE,
        _C.CPU,
        0.7,
    ),
    (
        r"AER: .*(?:uncorrect|fatal)|pcieport .*(?:Uncorrect|DPC)|PCIe Bus Error: severity=Uncorr",
        _K.HARDWARE,
        _C.PCIE,
        0.85,
    ),
    (
        r"(?:critical medium|I/O) error, dev |nvme\S* .*(?:controller is down|I/O .*timeout)",
        _K.HARDWARE,
        _C.DISK,
        0.85,
    ),
    (
        r"(?:EXT4-fs|XFS|BTRFS)\b.*(?:error|[Cc]orruption)|[Rr]emounting filesystem read-only",
        _K.HARDWARE,
        _C.DISK,
        0.7,
    ),
    (r"nfs: server .* not responding|Lustre.*(?:lost|timed out)", _K.NETWORK, _C.STORE, 0.7),
    (r"NETDEV WATCHDOG|mlx5_core .*(?:health|err)|Detected insufficient power", _K.HARDWARE, _C.NIC, 0.8),
    (
        r"mlx5_core .*[Ll]ink down|(?:eth|ens|enp|ib)\S*: (?:NIC )?[Ll]ink (?:is )?[Dd]own",
        _K.NETWORK,
        _C.LINK,
        0.85,
    ),
    (r"power supply|PSU .*(?:fail|lost)", _K.HARDWARE, _C.POWER, 0.8),
    (r"segfault at .* in lib", _K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.6),
)

_SCHEDULER: Final = (
    (r"DUE TO PREEMPTION|\bPREEMPTED\b", _K.PREEMPTION, _C.SCHEDULER, 0.97),
    (r"DUE TO TIME LIMIT|\bTIMEOUT\b|\bDEADLINE\b", _K.USER_ERROR, _C.RUN_FILE, 0.9),
    (r"DUE TO NODE FAILURE|\bNODE_FAIL\b|\bBOOT_FAIL\b", _K.HARDWARE, _C.NODE, 0.9),
    (r"\bOUT_OF_MEMORY\b|oom.kill|Exceeded job memory limit", _K.SYSTEM_SOFTWARE, _C.HOST_MEMORY, 0.9),
    (r"\bREVOKED\b|DUE TO JOB REQUEUE", _K.PREEMPTION, _C.SCHEDULER, 0.7),
)

_OUTPUT: Final = (
    (r"uncorrectable (?:NVLink|ECC) error|ECC error encountered", _K.HARDWARE, _C.GPU_MEMORY, 0.9),
    (r"OutOfMemoryError|CUDA out of memory", _K.USER_ERROR, _C.GPU_MEMORY, 0.8),
    (r"\bMemoryError\b|Cannot allocate memory|\bENOMEM\b", _K.SYSTEM_SOFTWARE, _C.HOST_MEMORY, 0.8),
    (r"No space left on device|\bENOSPC\b|Disk quota exceeded", _K.SYSTEM_SOFTWARE, _C.FILE_SYSTEM, 0.9),
    (r"Read-only file system|\bEROFS\b|Input/output error|\bEIO\b", _K.HARDWARE, _C.DISK, 0.8),
    (r"Stale file handle|Transport endpoint is not connected", _K.NETWORK, _C.STORE, 0.7),
    (r"device-side assert|illegal memory access", _K.USER_ERROR, _C.GPU, 0.5),
    (r"fell off the bus|no CUDA-capable device|CUDA_ERROR_NO_DEVICE", _K.HARDWARE, _C.GPU, 0.8),
    (r"unspecified launch failure|CUDNN_STATUS_|CUBLAS_STATUS_", _K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.4),
    (r"driver version is insufficient|driver/library version mismatch", _K.SYSTEM_SOFTWARE, _C.DRIVER, 0.95),
    (r"NET/IB ?:.*(?:error|status)|ncclRemoteError|IBV_WC_", _K.NETWORK, _C.LINK, 0.7),
    (r"ncclInvalidUsage|ncclInvalidArgument", _K.USER_ERROR, _C.RUN_FILE, 0.6),
    (r"ncclSystemError|ncclInternalError", _K.SYSTEM_SOFTWARE, _C.LIBRARY, 0.5),
    (r"Watchdog caught collective operation timeout", _K.UNKNOWN, _C.PROCESS, 0.3),
    (
        r"Connection (?:closed|reset) by (?:remote )?peer|Connection refused|Broken pipe|"
        r"gloo.*(?:closed|timed? ?out)",
        _K.NETWORK,
        _C.LINK,
        0.25,
    ),
    (r"Name or service not known|No route to host|Network is unreachable", _K.NETWORK, _C.LINK, 0.8),
)

_CHECK: Final = (
    (r"^(?:gpu_)?(?:ecc|remapped|row_remap)|gpu_memory|dbe", _K.HARDWARE, _C.GPU_MEMORY, 0.85),
    (r"^nvlink", _K.HARDWARE, _C.NVLINK, 0.85),
    (r"pcie", _K.HARDWARE, _C.PCIE, 0.85),
    (r"^driver|versions?\b", _K.SYSTEM_SOFTWARE, _C.DRIVER, 0.7),
    (r"^(?:gpu|xid|temperature|clocks?_gpu|power_cap|matmul|determinism)", _K.HARDWARE, _C.GPU, 0.85),
    (r"^(?:memory|edac|dimm)", _K.HARDWARE, _C.HOST_MEMORY, 0.8),
    (r"^(?:cpu|clock_speed|mce)", _K.HARDWARE, _C.CPU, 0.8),
    (r"^(?:disk_space|inodes|space)", _K.SYSTEM_SOFTWARE, _C.FILE_SYSTEM, 0.8),
    (r"^(?:disk|read_only|nvme)", _K.HARDWARE, _C.DISK, 0.8),
    (r"^mount", _K.SYSTEM_SOFTWARE, _C.FILE_SYSTEM, 0.7),
    (r"^(?:store)", _K.NETWORK, _C.STORE, 0.7),
    (r"^(?:key)", _K.NETWORK, _C.KEYS, 0.7),
    (r"^(?:infiniband|ib|link|peer|network|net)", _K.NETWORK, _C.LINK, 0.8),
    (r"^(?:nic|interface)", _K.HARDWARE, _C.NIC, 0.8),
    (r"^(?:power|psu)", _K.HARDWARE, _C.POWER, 0.8),
    (r"^(?:time_skew|clock|zombies?|leftover|isolation|processes|service)", _K.SYSTEM_SOFTWARE, _C.NODE, 0.5),
)
"""By the name of the check, which stands at the beginning of its line."""


def _rules() -> Iterator[TextRule]:
    for code, meaning in XID.items():
        yield TextRule(Source.KERNEL, re.compile(rf"NVRM: Xid .*?: {code}\b"), meaning)
    yield TextRule(Source.KERNEL, re.compile(r"NVRM: Xid"), UNKNOWN_XID)
    tables = (
        (Source.KERNEL, _KERNEL),
        (Source.SCHEDULER, _SCHEDULER),
        (Source.OUTPUT, _OUTPUT),
        (Source.CHECK, _CHECK),
    )
    for source, rows in tables:
        for pattern, kind, component, confidence in rows:
            flags = re.IGNORECASE if source in (Source.KERNEL, Source.CHECK) else 0
            yield TextRule(source, re.compile(pattern, flags), Meaning(kind, component, confidence))


TEXTS: Final = tuple(_rules())
"""Every rule, those of one source in the order in which they are tried."""


def text_meaning(source: Source, text: str) -> Meaning | None:
    """What a line says, by the first rule that matches; None when it says nothing of a failure."""
    for rule in TEXTS:
        if rule.source is source and rule.pattern.search(text):
            return rule.meaning
    return None
