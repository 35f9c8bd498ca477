"""Each check of a node: what is sound is ok, what is absent is not present, what is wrong is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.isolation import Isolation, IsolationState
from stoker.fleet.nodes.checks import CHECKS
from stoker.fleet.nodes.determinism import DIGEST, matrix, product_digest
from stoker.fleet.nodes.finding import CheckState, Finding
from stoker.fleet.nodes.gpu_query import parse_gpus
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable
from stoker.fleet.nodes.processes import parse_stat
from support.machine_tree import MachineTree, sound_machine, without

BY_NAME = {each.name: each for each in CHECKS}
OK, WARN, FAIL, NOT_PRESENT = CheckState.OK, CheckState.WARN, CheckState.FAIL, CheckState.NOT_PRESENT
NEEDS_MORE = {"mounts", "peer_bandwidth", "key_service", "store", "isolation"}
"""Checks of what settings name, or of other machines; judged further down."""


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return sound_machine(tmp_path)


def look(name: str, view: MachineView) -> Finding:
    try:
        return BY_NAME[name].look(view)
    except Absent as error:
        return Finding(NOT_PRESENT, str(error))


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - NEEDS_MORE))
def test_a_sound_machine_is_ok(tree: MachineTree, name: str) -> None:
    found = look(name, tree.view())
    assert found.state is OK, found.evidence
    assert found.evidence


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"disk_latency", "loopback_bandwidth", "determinism"}))
def test_what_is_not_there_is_never_ok(tmp_path: Path, name: str) -> None:
    """An empty root, no programs: only the folders that are named, and the network of the process, exist."""
    (tmp_path / "root").mkdir()
    view = MachineTree(tmp_path / "root").view()
    if name in ("disk_space", "disk_inodes"):
        (view.scratch).rmdir()
    found = look(name, view)
    assert found.state is NOT_PRESENT or name == "time_skew", found


Break = Callable[[MachineTree], Any]


def gpu(field: str, value: str, index: int = 1) -> Break:
    def change(tree: MachineTree) -> None:
        tree.gpus[index][field] = value
        tree.write_gpus()

    return change


def wrote(path: str, text: str) -> Break:
    return lambda tree: tree.write(path, text)


def nothing(tree: MachineTree) -> None:
    pass


PORT = "sys/class/infiniband/mlx5_0/ports/1"
DEVICE = "sys/class/net/eth0"
XID = "NVRM: Xid (PCI:0000:01:00): {}, pid=7, name=python"

WRONG: list[tuple[str, Break, dict[str, Any], CheckState, str]] = [
    ("cpu_count", nothing, {"cpus": 4}, FAIL, "2 CPUs are online, 4 are expected"),
    ("cpu_count", wrote("sys/devices/system/cpu/online", "0\n"), {}, WARN, "1 of 2"),
    (
        "cpu_clock",
        wrote("sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq", "1200000\n"),
        {},
        FAIL,
        "cpu1 at 1.20 of 3.50 GHz",
    ),
    ("memory_size", nothing, {"memory_bytes": 80 * 10**9}, FAIL, "67.1 GB, 80.0 GB"),
    ("memory_errors", wrote("sys/devices/system/edac/mc/mc0/ue_count", "2\n"), {}, FAIL, "2 uncorrected"),
    ("memory_errors", wrote("sys/devices/system/edac/mc/mc0/ce_count", "2000\n"), {}, WARN, "2000 corrected"),
    (
        "memory_errors",
        wrote("proc/meminfo", "MemTotal: 9 kB\nHardwareCorrupted:    64 kB\n"),
        {},
        FAIL,
        "64 kB",
    ),
    ("disk_space", nothing, {"disk_free_fraction": 0.9999999}, FAIL, "are needed"),
    ("disk_inodes", nothing, {"disk_free_fraction": 0.9999999}, FAIL, "inodes"),
    (
        "disk_read_only",
        wrote("proc/mounts", "/dev/sda1 / ext4 ro,errors=remount-ro 0 0\n"),
        {},
        FAIL,
        "/ (/dev/sda1) was turned read-only",
    ),
    ("mounts", nothing, {"mounts": ("/data",)}, FAIL, "/data is not mounted"),
    (
        "time_skew",
        lambda tree: tree.program(
            "chronyc", "#!/bin/sh\necho 'A,10.0.0.1,3,1,-0.9,0,0,0,0,0,0,0,64,Normal'\n"
        ),
        {},
        FAIL,
        "900.000 ms off",
    ),
    (
        "time_skew",
        lambda tree: tree.program("chronyc", "#!/bin/sh\necho '0,,0,0,0,0,0,0,0,0,0,0,0,Not synchronised'\n"),
        {},
        FAIL,
        "not synchronised",
    ),
    (
        "zombies",
        lambda tree: [tree.process(100 + n, "dead", "Z") for n in range(21)],
        {},
        WARN,
        "21 zombies",
    ),
    ("blocked_processes", lambda tree: tree.process(9, "cp", "D"), {}, WARN, "cp (9)"),
    (
        "leftover_processes",
        lambda tree: tree.process(9, "python", "S", 1, "python", "-m", "stoker.train.worker"),
        {},
        FAIL,
        "python (9)",
    ),
    (
        "kernel_errors",
        lambda tree: tree.kernel_says("mce: [Hardware Error]: Machine check events logged"),
        {},
        WARN,
        "Machine check",
    ),
    ("interfaces", wrote(f"{DEVICE}/operstate", "down\n"), {}, FAIL, "eth0 is down"),
    ("interfaces", nothing, {"interfaces": ("eth0", "eth1")}, FAIL, "eth1 is not there"),
    ("interface_errors", wrote(f"{DEVICE}/statistics/rx_crc_errors", "9000\n"), {}, WARN, "9003 errors"),
    ("loopback_bandwidth", nothing, {"loopback_bytes_per_s": 1e17}, WARN, "GB/s"),
    ("infiniband", wrote(f"{PORT}/state", "1: DOWN\n"), {"infiniband_ports": 1}, FAIL, "mlx5_0/1 is 1: DOWN"),
    ("infiniband", wrote(f"{PORT}/state", "1: DOWN\n"), {}, WARN, "mlx5_0/1 is 1: DOWN"),
    ("infiniband", wrote(f"{PORT}/counters/link_downed", "3\n"), {}, WARN, "link_downed 3"),
    (
        "infiniband",
        wrote(f"{PORT}/rate", "100 Gb/sec (4X EDR)\n"),
        {"infiniband_gbit_per_s": 400.0},
        FAIL,
        "runs at 100 Gb/s",
    ),
    (
        "infiniband",
        lambda tree: without(tree, "sys/class/infiniband"),
        {"infiniband_ports": 8},
        FAIL,
        "0 of 8",
    ),
    ("gpu_count", nothing, {"gpus": 8}, FAIL, "2 GPUs answer, 8"),
    ("gpu_count", lambda tree: without(tree, "bin/nvidia-smi"), {}, FAIL, "2 GPUs are to be here"),
    (
        "gpu_count",
        lambda tree: [tree.gpus.pop(), tree.write_gpus()],
        {},
        FAIL,
        "1 of 2 GPUs on the PCI bus",
    ),
    ("gpu_ecc", gpu("ecc.errors.uncorrected.volatile.total", "3"), {}, FAIL, "GPU 1: 3 errors"),
    ("gpu_ecc", gpu("ecc.mode.current", "Disabled"), {}, WARN, "switched off"),
    ("gpu_remapped_rows", wrote("smi/remaps", "0:0, 0, 1, Yes, No\n"), {}, FAIL, "wait for a reset"),
    ("gpu_remapped_rows", wrote("smi/remaps", "0:0, 0, 9, No, Yes\n"), {}, FAIL, "remapping failed"),
    ("gpu_xid", lambda tree: tree.kernel_says(XID.format(79)), {}, FAIL, "Xid 79 at PCI:0000:01:00, 1 times"),
    ("gpu_xid", lambda tree: tree.kernel_says(XID.format(31)), {}, WARN, "Xid 31"),
    (
        "gpu_nvlink",
        lambda tree: tree.write(
            "smi/nvlink",
            "GPU 0: H100\n\t Link 0: 26 GB/s\n\t Link 1: 26 GB/s\n"
            "GPU 1: H100\n\t Link 0: 26 GB/s\n\t Link 1: <inactive>\n",
        ),
        {},
        FAIL,
        "GPU 1: 1 of 2 links",
    ),
    ("gpu_pcie", gpu("pcie.link.width.current", "8"), {}, FAIL, "width 8 of 16"),
    ("gpu_temperature", gpu("temperature.gpu", "95"), {}, FAIL, "95 °C"),
    ("gpu_clocks", gpu("clocks_throttle_reasons.hw_slowdown", "Active"), {}, FAIL, "GPU 1 is slowed down"),
    ("gpu_clocks", gpu("clocks.max.sm", "1200"), {}, WARN, "1200 of 1980 MHz"),
    ("gpu_power_cap", gpu("power.limit", "350.00"), {}, WARN, "350 of 700 W"),
    ("gpu_driver", nothing, {"gpu_driver": "570.86.10"}, FAIL, "570.86.10 is expected"),
]


@pytest.mark.parametrize(
    ("name", "harm", "settings", "state", "evidence"),
    WRONG,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_found_and_shown(
    tree: MachineTree, name: str, harm: Break, settings: dict[str, Any], state: CheckState, evidence: str
) -> None:
    harm(tree)
    found = look(name, tree.view(**settings))
    assert found.state is state, found
    assert evidence in found.evidence


def test_every_check_can_fail_or_warn() -> None:
    assert {each[0] for each in WRONG} | NEEDS_MORE | {"disk_latency", "determinism"} == set(BY_NAME)


def test_an_xid_before_the_window_is_past(tree: MachineTree) -> None:
    tree.kernel_says(XID.format(79), at_s=100.0)
    assert look("gpu_xid", tree.view(xid_window_s=3600.0)).state is OK
    assert look("gpu_xid", tree.view(xid_window_s=9950.0)).state is FAIL


def test_a_gpu_that_does_not_tell_a_figure_is_not_judged_by_it(tree: MachineTree) -> None:
    for n in range(2):
        gpu("ecc.errors.uncorrected.volatile.total", "[N/A]", n)(tree)
        gpu("ecc.mode.current", "[N/A]", n)(tree)
    assert look("gpu_ecc", tree.view()).state is NOT_PRESENT


@pytest.mark.parametrize(
    "said",
    [
        "garbage\n",
        "0, 1, 2\n",
        "\x00\xff\n",
        "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.\n",
        ", ".join(
            ["0", "GPU-0", "0:0", "550", "[Unknown Error]", "1", "Active", *["1"] * 4, "Enabled", "0", "0"]
        ),
    ],
)
def test_garbage_of_nvidia_smi_gives_no_figure(tree: MachineTree, said: str) -> None:
    tree.write("smi/gpus", said)
    with pytest.raises(Unreadable, match="nvidia-smi"):
        look("gpu_count", tree.view())
    assert look("gpu_temperature", tree.view()).state is NOT_PRESENT


def test_a_failing_nvidia_smi_is_told_with_its_words(tree: MachineTree) -> None:
    tree.write("smi/gpus", "No devices were found\n")
    tree.write("smi/code", "6\n")
    with pytest.raises(Unreadable, match="ended with 6 and said No devices were found"):
        look("gpu_count", tree.view())


@given(st.text())
def test_any_text_is_a_table_or_unreadable(text: str) -> None:
    try:
        parse_gpus(text)
    except Unreadable:
        return
    assert not text.strip()


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.sampled_from("RSDZ"))
def test_a_process_may_have_any_name(name: str, state: str) -> None:
    found = parse_stat(f"42 ({name}) {state} 7 42 42 0")
    assert (found.name, found.state, found.parent) == (name, state, 7)


def test_on_an_idle_node_whoever_uses_a_gpu_was_left_behind(tree: MachineTree) -> None:
    tree.write("smi/apps", "4711, python\n")
    busy = tree.view()
    assert look("leftover_processes", busy).state is OK
    idle = MachineView(busy.settings, busy.clock, busy.scratch, busy.environment, tree.root, idle=True)
    found = look("leftover_processes", idle)
    assert (found.state, found.evidence) == (FAIL, "no job is here, and GPUs are used by python (4711)")


def test_the_disk_is_measured_by_the_clock_and_nothing_is_left(tree: MachineTree) -> None:
    class Slow(type(tree.view().clock)):  # type: ignore[misc]
        def monotonic_s(self) -> float:
            self.advance(0.4)
            return float(super().monotonic_s())

    assert look("disk_latency", tree.view(Slow(), disk_latency_s=0.3)).state is FAIL
    assert look("disk_latency", tree.view(Slow(), disk_latency_s=0.5)).state is OK
    assert list((tree.root / "scratch").iterdir()) == []


def test_a_folder_that_takes_no_file_is_told(tree: MachineTree) -> None:
    view = tree.view()
    view.scratch.rmdir()
    view.scratch.write_text("no folder")
    found = look("disk_latency", view)
    assert (found.state, "takes no file" in found.evidence) == (FAIL, True)


def test_the_product_on_record_is_the_exact_one() -> None:
    """Integers are multiplied without BLAS and without rounding."""
    import hashlib

    exact = matrix(1) @ matrix(2)
    assert exact.max() < 2**53
    assert hashlib.sha256(exact.astype("<f8").tobytes()).hexdigest() == DIGEST == product_digest()


def test_one_wrong_bit_of_the_product_is_found(tree: MachineTree, monkeypatch: pytest.MonkeyPatch) -> None:
    from stoker.fleet.nodes import determinism

    def broken(seed: int) -> Any:
        found = matrix(seed)
        found[300, 7] ^= 1
        return found

    monkeypatch.setattr(determinism, "matrix", broken)
    assert look("determinism", tree.view()).state is FAIL


def peer() -> tuple[socket.socket, threading.Thread]:
    """A node that throws away what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def swallow() -> None:
        link, _ = listener.accept()
        with link:
            while link.recv(1 << 16):
                pass

    thread = threading.Thread(target=swallow)
    thread.start()
    return listener, thread


@pytest.mark.parametrize(("least", "state"), [(1.0, OK), (1e15, FAIL)])
def test_the_speed_to_a_peer_is_measured(tree: MachineTree, least: float, state: CheckState) -> None:
    from stoker.core.clock import SystemClock

    listener, thread = peer()
    with listener:
        named = f"127.0.0.1:{listener.getsockname()[1]}"
        found = look(
            "peer_bandwidth", tree.view(SystemClock(), peer=named, peer_bytes_per_s=least, limit_s=4.0)
        )
        thread.join()
    assert found.state is state, found
    assert look("peer_bandwidth", tree.view(peer=named)).state is FAIL


def view_of(tree: MachineTree, **places: Any) -> MachineView:
    base = tree.view()
    return MachineView(base.settings, base.clock, base.scratch, base.environment, tree.root, **places)


def test_key_services_are_reached_or_not(tree: MachineTree) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for url in (
            f"openbao+https://127.0.0.1:{port}/transit",
            f"aws-kms://eu-1?endpoint=http://127.0.0.1:{port}",
        ):
            assert look("key_service", view_of(tree, keys_url=url)).state is OK, url
    for url in (
        f"openbao+https://127.0.0.1:{port}/transit",
        "pkcs11:token=t?module-path=/nowhere.so",
        "aws-kms://no region",
        "gopher://x",
    ):
        assert look("key_service", view_of(tree, keys_url=url)).state is FAIL, url
    assert look("key_service", view_of(tree, keys_url=tree.root.as_uri())).state is OK


def test_the_store_is_tried_with_an_object(tree: MachineTree) -> None:
    store = tree.root / "store"
    store.mkdir()
    assert look("store", view_of(tree, store_url=store.as_uri())).state is OK
    assert not [each for each in store.rglob("*") if each.is_file()]
    store.rmdir()
    assert look("store", view_of(tree, store_url=store.as_uri())).state is NOT_PRESENT
    assert look("store", view_of(tree, store_url="s3//no")).state is FAIL


@pytest.mark.parametrize(
    ("state", "expected"),
    [(IsolationState.ISOLATED, OK), (IsolationState.OPEN, FAIL), (IsolationState.REFUSED, WARN)],
)
def test_isolation_is_what_the_probe_found(
    tree: MachineTree, state: IsolationState, expected: CheckState
) -> None:
    view = view_of(tree, probe_isolation=lambda: Isolation(state, "because"))
    assert look("isolation", view).state is expected
