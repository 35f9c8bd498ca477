"""Network: devices that are up, their errors, how fast bytes come through, and InfiniBand's links."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Final

from stoker.fleet.nodes.finding import Finding, fail, not_present, ok, warn, worst
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable, read_text

_IFF_UP: Final = 0x1
_LOOPBACK_BYTES: Final = 32 << 20
_PEER_BYTES: Final = 16 << 20
_PIECE_BYTES: Final = 1 << 18
_ERRORS: Final = ("rx_errors", "tx_errors", "rx_fifo_errors", "tx_fifo_errors", "rx_crc_errors")
_FEW_PACKETS: Final = 10_000
"""Below this many packets a share of errors says nothing."""

_IB_ERRORS: Final = ("link_downed", "symbol_error", "port_rcv_errors")


def _devices(view: MachineView) -> list[Path]:
    """Physical devices; those that are made in software (bridges, tunnels, loopback) have no `device`."""
    folder = view.path("/sys/class/net")
    return sorted(each for each in folder.glob("*") if (each / "device").exists())


def interfaces(view: MachineView) -> Finding:
    """Devices that are named in settings, or else every physical one that was brought up, have a link."""
    folder = view.path("/sys/class/net")
    named = view.settings.interfaces
    problems = [fail(f"{name} is not there") for name in named if not (folder / name).exists()]
    there = [folder / name for name in named if (folder / name).exists()] if named else _devices(view)
    judged = []
    for device in there:
        if not named and not int(read_text(device / "flags"), 16) & _IFF_UP:
            continue
        judged.append(device.name)
        state = read_text(device / "operstate")
        if state not in ("up", "unknown"):
            problems.append(fail(f"{device.name} is {state}"))
    if not judged and not problems:
        return not_present("no physical network device is up")
    return worst(problems, f"up: {', '.join(judged)}")


def interface_errors(view: MachineView) -> Finding:
    """Packets that came broken or were lost, as a share of all since the start of the machine."""
    devices = _devices(view)
    if not devices:
        return not_present("there is no physical network device")
    problems = []
    for device in devices:
        counters = device / "statistics"
        packets = view.number(counters / "rx_packets") + view.number(counters / "tx_packets")
        errors = sum(_counter(view, counters / name) for name in _ERRORS)
        if packets >= _FEW_PACKETS and errors > view.settings.interface_error_fraction * packets:
            problems.append(warn(f"{device.name}: {errors} errors in {packets} packets"))
    return worst(problems, f"{len(devices)} devices without many errors")


def _counter(view: MachineView, path: Path) -> int:
    with contextlib.suppress(Absent):
        return view.number(path)
    return 0


def loopback_bandwidth(view: MachineView) -> Finding:
    """How fast this machine's own network stack moves bytes from one thread to another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(view.settings.limit_s)
        sink = threading.Thread(target=_swallow_one, args=(listener,), daemon=True)
        sink.start()
        speed = _send(view, listener.getsockname()[:2], _LOOPBACK_BYTES)
        sink.join(view.settings.limit_s)
    text = f"{speed / 1e9:.2f} GB/s through loopback"
    return warn(text) if speed < view.settings.loopback_bytes_per_s else ok(text)


def peer_bandwidth(view: MachineView) -> Finding:
    """How fast bytes leave for the node that settings name; it throws them away (RFC 863) and closes."""
    peer = view.settings.peer
    if not peer:
        return not_present("no peer is named (nodes.peer)")
    host, _, port = peer.rpartition(":")
    try:
        speed = _send(view, (host.strip("[]"), int(port)), _PEER_BYTES)
    except OSError as error:
        return fail(f"{peer} cannot be reached: {error.strerror or error}")
    text = f"{speed / 1e9:.2f} GB/s to {peer}"
    return fail(text) if speed < view.settings.peer_bytes_per_s else ok(text)


def _send(view: MachineView, address: tuple[str, int], count: int) -> float:
    """Bytes per second until the other side has taken all of `count` bytes and has closed."""
    piece = bytes(_PIECE_BYTES)
    with socket.create_connection(address, timeout=view.settings.limit_s) as link:
        began_s = view.clock.monotonic_s()
        for _ in range(count // _PIECE_BYTES):
            link.sendall(piece)
        link.shutdown(socket.SHUT_WR)
        while link.recv(4096):
            pass
        took_s = view.clock.monotonic_s() - began_s
    return count / max(took_s, 1e-9)


def _swallow_one(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link, _ = listener.accept()
        with link:
            while link.recv(_PIECE_BYTES):
                pass


def infiniband(view: MachineView) -> Finding:
    """Every port is active, as fast as expected, and does not lose its link or its symbols."""
    ports = sorted(view.path("/sys/class/infiniband").glob("*/ports/*"))
    wanted = view.settings.infiniband_ports
    if not ports:
        return fail(f"0 of {wanted} ports are there") if wanted else not_present("there is no InfiniBand")
    problems, active = [], 0
    for port in ports:
        name = f"{port.parent.parent.name}/{port.name}"
        if read_text(port / "link_layer") != "InfiniBand":
            continue
        state = read_text(port / "state")
        if not state.startswith("4:"):
            problems.append((fail if wanted else warn)(f"{name} is {state}"))
            continue
        active += 1
        rate = _gbit_per_s(port)
        if rate < view.settings.infiniband_gbit_per_s:
            problems.append(fail(f"{name} runs at {rate:.0f} Gb/s"))
        errors = {each: _counter(view, port / "counters" / each) for each in _IB_ERRORS}
        if any(errors.values()):
            told = ", ".join(f"{each} {count}" for each, count in errors.items() if count)
            problems.append(warn(f"{name}: {told}"))
    if active < wanted:
        problems.append(fail(f"{active} of {wanted} ports are active"))
    if not active and not problems:
        return not_present("the ports here carry no InfiniBand")
    return worst(problems, f"{active} ports are active")


def _gbit_per_s(port: Path) -> float:
    """`400 Gb/sec (4X NDR)` as 400. Raises Unreadable."""
    text = read_text(port / "rate")
    try:
        return float(text.split()[0])
    except (IndexError, ValueError) as error:
        raise Unreadable(f"{port / 'rate'} holds {text[:40]!a}") from error
